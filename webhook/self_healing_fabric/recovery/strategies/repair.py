"""Repair: replicas whose state is not that of the majority get the majority's, byte for byte.

The one strategy that overwrites data, so everything is looked at before anything is touched: the state of
each voter is read whole and twice, the votes are counted (`consensus`), the damaged state is kept aside and
read back, and the replica replaces only exactly the state that was read (`If-Match`). Any doubt on the way
is a reason to do nothing and to call people.

Replicas are repaired one after the other, and none after one that did not take its state: what goes wrong
with the first would go wrong with all of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from enum import Enum, auto
from typing import TYPE_CHECKING, Any

from self_healing_fabric.recovery.consensus import SHOWN, NoMajority, decide
from self_healing_fabric.recovery.effects import (
    DIFF,
    Effect,
    NotApplicable,
    Progress,
    Settling,
    TargetAway,
    TargetUnreadable,
    changed,
    insist,
    left_open,
)
from self_healing_fabric.recovery.outcomes import (
    BEGINS_WITHIN,
    Conflict,
    Outcome,
    Permit,
    Status,
    Unserved,
    Untold,
)
from self_healing_fabric.recovery.platforms import owner_of
from self_healing_fabric.recovery.states import (
    EXTRA,
    GRACE,
    Away,
    Claim,
    Unreadable,
    ballot_of,
    can_reach_files,
    claims_of,
    digest_of,
    in_time,
    keep,
    read_file,
    replicas_of,
    sources_of,
)
from self_healing_fabric.settings import Settings, StateSettings

if TYPE_CHECKING:
    from self_healing_fabric.recovery.platforms.kubernetes.restore_job import RestoreJobs

Change = Mapping[
    str, Any
]  # of one replica: what it `had` and `gets` (digest, version), and what is kept `aside`


class Holds(Enum):
    """What a replica holds, seen from its change."""

    WANTED = auto()
    OLD = auto()
    LATER = auto()  # a whole state of a later version
    OTHER = auto()
    AWAY = auto()  # it does not answer just now
    UNKNOWN = auto()


class Repair:
    """The state of the majority for those replicas that hold another."""

    name = "repair"
    disruptive = True

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def on(self, service: str) -> Effect:
        """The repair of the service's replicas."""
        state = self._settings.services[service].recovery.state
        if state is None:
            raise NotApplicable(f"{service} has no `recovery.state`")
        if not can_reach_files():
            raise NotApplicable(f"the damaged state could not be kept aside: {EXTRA}")
        target = owner_of(service, self._settings)
        if state.restore_job is None:
            return StateRepair(service, state, target)
        # Imported only when needed: a fabric without Kubernetes must not need its client.
        from self_healing_fabric.recovery.platforms.kubernetes.restore_job import RestoreJobs

        return JobRepair(service, state, target, RestoreJobs(state.restore_job, self._settings.kubernetes))


class _Replacement(Effect):
    """Other states for some replicas; `before["replicas"]` holds a change for each, by its name."""

    platform = "http"

    def __init__(self, service: str, settings: StateSettings, target: str) -> None:
        self.target = target
        # First the copies that are kept; then each replica waits for the order to every one before it, and
        # for the look at what became of that, which is as long again where that one restarts itself.
        others = len(settings.replicas) - 1
        self.begins_within = BEGINS_WITHIN + _time_for_copies(settings) + others * 3 * settings.timeout
        # At worst the last byte is sent two timeouts after the order began; then the replica may take one.
        self.longest_effect = self.begins_within + 3 * settings.timeout
        self._service = service
        self._settings = settings
        self._replicas = replicas_of(settings)

    def perform(self, *, key: str, attempt: int, before: Mapping[str, Any], permit: Permit) -> Outcome:
        """Prepare all of it, then replace one state after the other."""
        changes: Mapping[str, Change] = before["replicas"]
        try:
            states = self._states_for(changes, before)
        except Unreadable as error:
            return Outcome(Status.FAILED, f"{error}; nothing was done")
        done: list[str] = []
        for name, change in changes.items():
            outcome = self._replace(name, change, states[name], key=key, permit=permit)
            if outcome.status is not Status.SUCCEEDED:
                return _after(done, outcome)
            done.append(outcome.detail)
        return Outcome(Status.SUCCEEDED, "; ".join([*done, *self._told(before)]))

    def observe(self, before: Mapping[str, Any]) -> Outcome:
        """Read the replicas' states: all replaced, none, or something that only people can judge."""
        now = [self._now(name, change) for name, change in before["replicas"].items()]
        told = "; ".join((left_open(before), *(words for _, words in now)))
        found = {holds for holds, _ in now}
        if found == {Holds.WANTED}:
            return Outcome(Status.SUCCEEDED, told)
        if Holds.AWAY in found:
            return Untold(Status.INDETERMINATE, told)
        return Outcome(Status.FAILED if found == {Holds.OLD} else Status.INDETERMINATE, told)

    def settled(self, before: Mapping[str, Any]) -> Settling:
        """Each replica must hold what it got, or what was written since.

        Whether the others hold that too, the series of the digests tells.
        """
        now = [self._now(name, change) for name, change in before["replicas"].items()]
        found, told = {holds for holds, _ in now}, "; ".join(words for _, words in now)
        if found & {Holds.UNKNOWN, Holds.AWAY}:
            raise TargetUnreadable(told)
        return Settling(Progress.DONE if found <= {Holds.WANTED, Holds.LATER} else Progress.FAILED, told)

    def check(self) -> str:
        """Ask every voter for its digest. Raises TargetUnreadable, which names those that cannot tell it."""
        sources = sources_of(self._settings)
        claims = claims_of(sources, self._settings)
        silent = [
            f"{source.voter.name}: {claim}"
            for source, claim in zip(sources, claims, strict=True)
            if isinstance(claim, Unreadable)
        ]
        if silent:
            raise TargetUnreadable("; ".join(silent))
        states = len({(claim.digest, claim.version) for claim in claims if isinstance(claim, Claim)})
        return f"{len(claims)} voters tell {states} state{'s' if states > 1 else ''}"

    def _told(self, before: Mapping[str, Any]) -> tuple[str, ...]:
        """What people should know of it besides."""
        return ()

    def _states_for(self, changes: Mapping[str, Change], before: Mapping[str, Any]) -> Mapping[str, bytes]:
        """What each replica gets, with nothing left to be done but the orders. Raises Unreadable."""
        raise NotImplementedError

    def _replace(self, name: str, change: Change, data: bytes, *, key: str, permit: Permit) -> Outcome:
        sent = self._replicas[name].replace(
            data,
            instead_of=change["had"]["digest"],
            version=change["gets"]["version"],
            key=key,
            permit=permit,
        )
        if isinstance(sent, Outcome) and sent.status is Status.FAILED and not isinstance(sent, Conflict):
            return sent
        # An answer is no proof: what counts is what the replica holds now.
        holds, words = self._insist(name, change)
        if holds is Holds.WANTED:
            return Outcome(Status.SUCCEEDED, words)
        if isinstance(sent, Conflict):
            return sent
        why = sent.detail if isinstance(sent, Outcome) else sent
        if holds not in (Holds.OLD, Holds.AWAY):
            return Outcome(Status.INDETERMINATE, f"{why}; {words}")
        # Who holds the old state may still be at it; who is away tells when it is back.
        at_it = holds is Holds.OLD and not isinstance(sent, Unserved)
        unchanged = Status.INDETERMINATE if at_it else Status.FAILED
        return Untold(Status.INDETERMINATE, f"{why}; {words}", why=why, unchanged=unchanged)

    def _insist(self, name: str, change: Change) -> tuple[Holds, str]:
        """What a replica holds after an order to it, which may have it restart itself."""
        return self._now(name, change, within=self._settings.timeout)

    def _now(self, name: str, change: Change, *, within: float = 0.0) -> tuple[Holds, str]:
        """What a replica holds, by its very bytes, and the same in words; asked for `within` seconds."""
        if name not in self._replicas:
            return Holds.UNKNOWN, f"{name} is not configured any more"
        try:
            content = insist(self._replicas[name].read, within=within, unless=Unreadable)
        except Unreadable as error:
            return Holds.AWAY if isinstance(error, Away) else Holds.UNKNOWN, f"{name}: {error}"
        digest, gets = content.digest, change["gets"]
        if digest == gets["digest"]:
            return Holds.WANTED, f"{name} holds {digest[:SHOWN]} (version {gets['version']})"
        if digest == change["had"]["digest"]:
            return Holds.OLD, f"{name} still holds {digest[:SHOWN]}"
        if content.claim.digest == digest and content.claim.version > gets["version"]:
            return (
                Holds.LATER,
                f"{name} was written since: {digest[:SHOWN]} (version {content.claim.version})",
            )
        return Holds.OTHER, f"{name} holds {digest[:SHOWN]}, which is neither"


class StateRepair(_Replacement):
    """The state of the majority for the minority, whose own is kept aside."""

    def __init__(self, service: str, settings: StateSettings, target: str) -> None:
        super().__init__(service, settings, target)
        self._states: Mapping[str, bytes] = {}

    def snapshot(self) -> Mapping[str, Any]:
        """Read all voters and count: who is right, who gets what, and why."""
        ballot = ballot_of(self._settings)
        found = decide(ballot.votes)
        if isinstance(found, NoMajority):
            raise NotApplicable(found.why)
        # Kept until the effect: read then, they might be others, and the time for its beginning is short.
        wanted = {found.digest, *(vote.digest for vote in found.minority)}
        self._states = {digest: data for digest, data in ballot.states.items() if digest in wanted}
        gets = {"digest": found.digest, "version": found.version}
        folder = f"{self._settings.keep_aside.rstrip('/')}/{self._service}"
        changes = {
            vote.voter.name: {
                "had": {"digest": vote.digest, "version": vote.version},
                "gets": gets,
                "aside": f"{folder}/{vote.voter.name}/{vote.version}-{vote.digest}",
            }
            for vote in found.minority
        }
        return {
            "votes": found.votes,
            "source": found.source.name,
            "replicas": changes,
            DIFF: _lines(changes),
        }

    def undo(self, before: Mapping[str, Any]) -> Effect | None:
        """The states that were kept aside, unless somebody has changed the replicas since."""
        return StateRestoration(self._service, self._settings, self.target, before)

    def _states_for(self, changes: Mapping[str, Change], before: Mapping[str, Any]) -> Mapping[str, bytes]:
        source = str(before["source"])
        states = {name: self._state(source, change["gets"]["digest"]) for name, change in changes.items()}
        self._keep_aside(changes)
        return states

    def _keep_aside(self, changes: Mapping[str, Change]) -> None:
        damaged = {
            change["aside"]: self._state(name, change["had"]["digest"]) for name, change in changes.items()
        }
        in_time(lambda path: keep(path, damaged[path]), list(damaged), self._settings)

    def _told(self, before: Mapping[str, Any]) -> tuple[str, ...]:
        kept = ", ".join(change["aside"] for change in before["replicas"].values())
        return (f"copied from {before['source']}", f"what was there is kept in {kept}", str(before["votes"]))

    def _state(self, voter: str, digest: str) -> bytes:
        if digest not in self._states:
            raise Unreadable(f"the state {digest[:SHOWN]} of {voter} is not at hand")
        return self._states[digest]


class JobRepair(StateRepair):
    """The same decision, carried out by one Job for the whole minority.

    The Job is told the damaged replicas and the state that they must hold; how it gets there is its own
    affair, and whether it did is told by the replicas' bytes. What is kept aside is not put back by itself.
    """

    platform = "kubernetes"

    def __init__(self, service: str, settings: StateSettings, target: str, jobs: RestoreJobs) -> None:
        super().__init__(service, settings, target)
        self.begins_within = BEGINS_WITHIN + _time_for_copies(settings)
        self.longest_effect = jobs.longest_effect + _time_for_copies(settings)
        self._jobs = jobs

    def snapshot(self) -> Mapping[str, Any]:
        """Read all voters and count; then name the Job."""
        return {**super().snapshot(), "job": self._jobs.plan()}

    def perform(self, *, key: str, attempt: int, before: Mapping[str, Any], permit: Permit) -> Outcome:
        """Keep the damaged states aside, then order the Job."""
        changes: Mapping[str, Change] = before["replicas"]
        try:
            self._keep_aside(changes)
        except Unreadable as error:
            return Outcome(Status.FAILED, f"{error}; nothing was done")
        gets = next(iter(changes.values()))["gets"]
        environment = {
            "SHF_ACTION": key,
            "SHF_REPLICAS": ",".join(changes),
            "SHF_DIGEST": gets["digest"],
            "SHF_VERSION": str(gets["version"]),
        }
        return self._jobs.create(before["job"], environment, permit)

    def observe(self, before: Mapping[str, Any]) -> Outcome:
        """Whether there is the Job."""
        return self._jobs.observe(before["job"], "the fabric was interrupted")

    def settled(self, before: Mapping[str, Any]) -> Settling:
        """The Job must be complete; then the replicas' bytes are looked at."""
        job = self._jobs.settled(before["job"])
        return super().settled(before) if job.progress is Progress.DONE else job

    def undo(self, before: Mapping[str, Any]) -> Effect | None:
        """None: who takes its state from a Job takes it from nobody else."""
        return None

    def check(self) -> str:
        """Ask every voter, and for the CronJob."""
        return f"{super().check()}; {self._jobs.check()}"


class StateRestoration(_Replacement):
    """The way back: the damaged states, as they were kept aside."""

    def __init__(
        self, service: str, settings: StateSettings, target: str, repaired: Mapping[str, Any]
    ) -> None:
        super().__init__(service, settings, target)
        self._repaired: Mapping[str, Change] = repaired["replicas"]

    def snapshot(self) -> Mapping[str, Any]:
        """Every replica must still hold what the repair gave it."""
        changes = {}
        for name, change in self._repaired.items():
            holds, words = self._now(name, change)
            if holds is Holds.AWAY:
                raise TargetAway(words)
            if holds is Holds.UNKNOWN:
                raise TargetUnreadable(words)
            if holds is not Holds.WANTED:
                raise NotApplicable(f"{words}: it is left as it is")
            changes[name] = {"had": change["gets"], "gets": change["had"], "aside": change["aside"]}
        return {"replicas": changes, DIFF: _lines(changes)}

    def _states_for(self, changes: Mapping[str, Change], before: Mapping[str, Any]) -> Mapping[str, bytes]:
        paths, most = [change["aside"] for change in changes.values()], self._settings.max_bytes
        contents = in_time(lambda path: read_file(path, most), paths, self._settings)
        states = dict(zip(changes, contents, strict=True))
        for name, change in changes.items():
            if digest_of(states[name]) != change["gets"]["digest"]:
                raise Unreadable(f"{change['aside']} is not the state that was kept aside")
        return states


def _time_for_copies(settings: StateSettings) -> float:
    """Seconds until the copies of the old states are written or read, or given up."""
    return settings.timeout + GRACE


def _lines(changes: Mapping[str, Change]) -> list[str]:
    lines = []
    for name, change in changes.items():
        states = (change["had"], change["gets"])
        lines += changed(name, *(f"{each['digest'][:SHOWN]} (version {each['version']})" for each in states))
    return lines


def _after(done: list[str], outcome: Outcome) -> Outcome:
    """What came of it when one replica did not take its state: with others changed, only people can judge."""
    if not done:
        return outcome
    detail = f"only a part was done: {'; '.join(done)}; then {outcome.detail}"
    if isinstance(outcome, Untold):
        return replace(outcome, detail=detail)
    return Outcome(Status.INDETERMINATE, detail)
