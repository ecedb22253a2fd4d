"""Sync: make the running configuration the wanted one again, and put the old one back if that heals nothing.

What is written down before the write is the whole change, both sides and the version: after a crash the
target is compared with both, and the way back leads to the very bytes that were there. It is taken back
after every verdict but healed, because a configuration that mends nothing has no better claim than the one
that somebody put there, perhaps in an emergency.

A process that reads its configuration only at its start needs a restart after it. That is a second change, to
another target, so it is an action of its own: `FOLLOWED_BY` asks for it before anything is verified.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from self_healing_fabric.incidents.unfinished import FOLLOWED_BY
from self_healing_fabric.recovery.configuration import Configuration, configuration_of
from self_healing_fabric.recovery.configuration.live import Change, Side
from self_healing_fabric.recovery.effects import (
    DIFF,
    DIGEST,
    Effect,
    NotApplicable,
    Progress,
    Settling,
    TargetUnreadable,
    insist,
    left_open,
    unread,
)
from self_healing_fabric.recovery.outcomes import BEGINS_WITHIN, Outcome, Permit, Status, learnt, unmoved
from self_healing_fabric.settings import Settings

CHANGE = "change"  # in an action's `before`: the change, secrets included; nothing shows it


class Sync:
    """Write the wanted configuration where the service's configuration is in force."""

    name = "sync"
    disruptive = True

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def on(self, service: str) -> Effect:
        """The effect on the service's configured place."""
        configuration = configuration_of(service, self._settings)
        if configuration is None:
            raise NotApplicable(f"{service} has no `recovery.configuration`")
        return Synchronization(configuration)


class Synchronization(Effect):
    """One write of one configuration; with `back_from`, the way back from an earlier one."""

    undone_unless_healed = True

    def __init__(self, configuration: Configuration, *, back_from: Change | None = None) -> None:
        self._configuration, self._live, self._back_from = configuration, configuration.live, back_from
        self.platform = self._live.platform
        self.target = self._live.target
        self.longest_effect = BEGINS_WITHIN + self._live.longest_write

    def snapshot(self) -> Mapping[str, Any]:
        """Both sides of the change, its masked diff, and what must follow."""
        followed = {FOLLOWED_BY: "restart"} if self._configuration.settings.restart else {}
        if self._back_from is not None:
            running = self._live.read()
            if self._live.side(self._back_from, running) is not Side.WANTED:
                raise NotApplicable(f"somebody has changed {self.target} since: it is left as it is")
            change = self._live.reverse(self._back_from, running)
            return {CHANGE: change, DIGEST: _digest(change), **followed}
        found = self._configuration.compare()
        if not found.drift:
            raise NotApplicable(f"{self.target} is as {found.wanted.origin} wants it: there is no drift")
        change = self._live.change(found.running, found.wanted.content)
        return {CHANGE: change, DIFF: list(found.drift.lines), DIGEST: _digest(change), **followed}

    def perform(self, *, key: str, attempt: int, before: Mapping[str, Any], permit: Permit) -> Outcome:
        """Write once; when the answer does not tell whether it happened, or says so, read it again."""
        sent = self._live.write(before[CHANGE], key=key, permit=permit)
        return learnt(sent, lambda why: self._learn(before, why, Status.INDETERMINATE))

    def observe(self, before: Mapping[str, Any]) -> Outcome:
        """Compare what runs with both sides of the change."""
        return self._learn(before, left_open(before), Status.FAILED)

    def settled(self, before: Mapping[str, Any]) -> Settling:
        """What was written must still run."""
        if self._live.side(before[CHANGE], self._live.read()) is Side.WANTED:
            return Settling(Progress.DONE, f"{self.target} is as it was written")
        return Settling(Progress.FAILED, f"{self.target} is not as it was written any more")

    def undo(self, before: Mapping[str, Any]) -> Effect | None:
        """The previous configuration, unless somebody has changed it since."""
        return Synchronization(self._configuration, back_from=before[CHANGE])

    def check(self) -> str:
        """Compare once."""
        return self._configuration.check()

    def _learn(self, before: Mapping[str, Any], why: str, unchanged: Status) -> Outcome:
        try:
            running = insist(self._live.read, within=self._live.longest_write)
            side = self._live.side(before[CHANGE], running)
        except TargetUnreadable as error:
            return unread(why, error)
        if side is Side.WANTED:
            return Outcome(Status.SUCCEEDED, f"{why}; {self.target} is as it was to become")
        if side is Side.PREVIOUS:
            return unmoved(unchanged, why, f"{self.target} is as it was before")
        return Outcome(Status.INDETERMINATE, f"{why}; {self.target} is neither as before nor as wanted")


def _digest(change: Change) -> str:
    """Of all that it changes. The version is not a part of that: others may change what it does not touch."""
    content = {name: value for name, value in change.items() if name != "version"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
