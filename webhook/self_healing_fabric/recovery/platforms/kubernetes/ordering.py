"""One order to one object, bound to what was decided on, and found again when its answer is lost.

The object is read once more right before the order: so the connection stands, and the order carries the
`resourceVersion` of an object whose uid and generation are those of the decision. A server that meanwhile
wrote anything to it, even a status, answers 409: then nothing happened, and it is tried again at once.

The same `resourceVersion` tells after a lost answer more than the object's looks: once the object has got
another one and does not show our change, the order that is still on its way can only be refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from self_healing_fabric.cluster.objects import JSON
from self_healing_fabric.recovery.effects import (
    Effect,
    NotApplicable,
    TargetUnreadable,
    left_open,
    unordered,
    unread,
)
from self_healing_fabric.recovery.outcomes import (
    BEGINS_WITHIN,
    Outcome,
    Permit,
    Status,
    Untold,
    Untouched,
    forbidden,
)
from self_healing_fabric.recovery.platforms.kubernetes.api import Api, Refused, Unanswered
from self_healing_fabric.recovery.platforms.kubernetes.workload import Place

SERVER_GRANTS = 60.0  # seconds to a request, unless the API server was told otherwise
CONFLICTS = 5  # orders in a row that another writer's change may get in the way of
CONFLICT_PAUSE = 2.0  # seconds until the next attempt after that


class Happened(Enum):
    """Whether an object shows the change that was ordered."""

    YES = "yes"
    NO = "no"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Seen:
    """What the object, read again, says of an order."""

    happened: Happened
    detail: str


class KubernetesEffect(Effect):
    """What all effects on a workload share: the order of the steps, and what is known after each."""

    platform = "kubernetes"
    server = ("kubernetes", None)  # there is one
    longest_effect = BEGINS_WITHIN + SERVER_GRANTS
    event = "SelfHealing"  # the reason of the event that tells of it
    bound_to_version = True  # whether the order carries the resourceVersion, and not only the uid

    def __init__(self, place: Place) -> None:
        self.place = place
        self.target = place.target

    def subject(self, api: Api, before: Mapping[str, Any]) -> JSON | None:
        """The object that is changed, as it is now; None when it is gone. Raises TargetUnreadable."""
        return self.place.read(api)

    def unfit(self, api: Api, now: JSON | None, before: Mapping[str, Any]) -> str | None:
        """Why it is not any more as it was decided on; None when it still is. Raises as `subject` does."""
        return "it is gone" if now is None else differs(now, before)

    def send(self, api: Api, now: JSON, before: Mapping[str, Any]) -> None:
        """The order itself. Raises Refused, Unanswered."""
        raise NotImplementedError

    def prepare(self, api: Api, before: Mapping[str, Any]) -> None:
        """What must be read for the order. Raises TargetUnreadable."""

    def seen(self, now: JSON | None, before: Mapping[str, Any]) -> Seen:
        """What an object says of the order; looks at nothing else."""
        raise NotImplementedError

    def done(self, before: Mapping[str, Any]) -> str:
        """The sentence that tells of success."""
        raise NotImplementedError

    def refused(self, error: Refused) -> str:
        """The sentence that tells of a refusal."""
        return str(error)

    def finish(self, api: Api, before: Mapping[str, Any], permit: Permit) -> Outcome | None:
        """What belongs to the effect after the order; None when nothing of it is left undone."""
        return None

    def perform(self, *, key: str, attempt: int, before: Mapping[str, Any], permit: Permit) -> Outcome:
        """Send the order once; when the answer does not tell whether it happened, read the object."""
        try:
            with Api(self.place.settings) as api:
                outcome = self._order(api, before, permit)
                if outcome.status is Status.SUCCEEDED:
                    outcome = self.finish(api, before, permit) or outcome
                    self.place.tell(api, before["uid"], self.event, f"{outcome.detail} (action {key})")
                return outcome
        except (TargetUnreadable, NotApplicable) as error:
            # Raised by what is read before the order; what is read after it never raises.
            return unordered(error)

    def observe(self, before: Mapping[str, Any]) -> Outcome:
        """Read the object and compare it with what was there before, and with what was ordered."""
        try:
            with Api(self.place.settings) as api:
                seen = self.look(api, before)
        except TargetUnreadable as error:
            return unread(left_open(before), error)
        return Outcome(_STATUS[seen.happened], f"{left_open(before)}; {seen.detail}")

    def look(self, api: Api, before: Mapping[str, Any]) -> Seen:
        """What is found of the order now. Raises TargetUnreadable."""
        return self.seen(self.subject(api, before), before)

    def check(self) -> str:
        """Read the workload."""
        with Api(self.place.settings) as api:
            self.place.read(api)
        return f"{self.place.title} is there"

    def _order(self, api: Api, before: Mapping[str, Any], permit: Permit) -> Outcome:
        self.prepare(api, before)
        refusal = ""
        for _ in range(CONFLICTS):
            now = self.subject(api, before)
            unfit = self.unfit(api, now, before)
            if now is None or unfit is not None:
                # Decided anew: an autoscaler's change is no reason to give up, and a person's is seen then.
                detail = f"{self.place.title}: {unfit}; nothing was ordered"
                return Untouched(Status.FAILED, detail, 0.0)
            if not permit():
                return forbidden()
            try:
                self.send(api, now, before)
            except Refused as error:
                refusal = f"{self.place.title}: {self.refused(error)}"
                if error.status != 409:
                    return Untouched(Status.FAILED, refusal, error.again)
            except Unanswered as error:
                return self._learn(api, before, error, now["metadata"].get("resourceVersion"))
            else:
                return Outcome(Status.SUCCEEDED, f"{self.place.title}: {self.done(before)}")
        return Untouched(Status.FAILED, f"{refusal}, {CONFLICTS} times in a row", CONFLICT_PAUSE)

    def _learn(self, api: Api, before: Mapping[str, Any], why: Unanswered, version: str | None) -> Outcome:
        try:
            now = self.subject(api, before)
        except TargetUnreadable as error:
            return unread(str(why), error)
        seen = self.seen(now, before)
        status, detail = _STATUS[seen.happened], f"{why}; {seen.detail}"
        if seen.happened is Happened.NO and now is not None:
            if not self.bound_to_version or now["metadata"].get("resourceVersion") == version:
                return Untold(Status.INDETERMINATE, detail, why=str(why))
            detail += ", and has been written to since: the order can only be refused now"
        return Outcome(status, detail)


_STATUS = {
    Happened.YES: Status.SUCCEEDED,
    Happened.NO: Status.FAILED,
    Happened.UNKNOWN: Status.INDETERMINATE,
}


def differs(now: JSON, before: Mapping[str, Any]) -> str | None:
    """Why a workload is not the one, or not as it was, when the order was decided on."""
    metadata = now["metadata"]
    if metadata["uid"] != before["uid"]:
        return "another object has its name now"
    if metadata.get("generation") != before["generation"]:
        return "somebody has changed it since"
    return None


def unlike(now: JSON, before: Mapping[str, Any], ordered: str) -> Seen:
    """What a workload that does not show the change says of whether it was ever made.

    The first change after the decision would have been ours, for the order is bound to the generation.
    """
    metadata = now["metadata"]
    if metadata["uid"] != before["uid"]:
        return Seen(Happened.UNKNOWN, "another object has its name now")
    changes = metadata.get("generation", 0) - before["generation"]
    if changes == 0:
        return Seen(Happened.NO, f"the API server says that {ordered} did not happen")
    if changes == 1:
        return Seen(Happened.NO, f"its one change since was somebody else's: {ordered} did not happen")
    return Seen(
        Happened.UNKNOWN, f"it was changed {changes} times since, and {ordered} cannot be told from it"
    )


def preconditions(now: JSON) -> dict[str, str]:
    """What binds a merge patch to the object that was read."""
    return {"uid": now["metadata"]["uid"], "resourceVersion": now["metadata"]["resourceVersion"]}
