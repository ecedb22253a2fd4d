"""The stories in which processes are killed: a few services, each with its fate, and what people do.

A story says what the world does and what the world may demand afterwards, never how the fabric gets there.
The seed shifts all times, so that the same story takes another course each time. Together the stories go
every way of the state machine that the product can go; `UNREACHED` names the others.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from board import START, Board
from limits import UNBOUND

NEVER = float("inf")
EFFECT_TIMEOUT = 8.0  # seconds; `recovery.http.timeout` of the stories


@dataclass(frozen=True)
class Member:
    """One service. Times are seconds since the story began.

    Attributes:
        fails_at: None: an event lets it fail.
        alert_after: from its failure to its alert; None: it never alerts.
        needs: the services whose restart makes it well; none: no restart does.
        well_at: somebody repairs it then; or so long after its first restart, which was in vain.
        relapse: so long after its first restart it fails again, and needs another one.
        health: `follows` its restarts, or `lies`; None: it has no health endpoint.
        tells: whether the target can tell if it was restarted.
        effects: how often the target is to be restarted, at least and at most, if the alert was acknowledged.
    """

    name: str
    effects: tuple[int, int]
    fails_at: float | None = 0.0
    alert_after: float | None = 1.2
    needs: tuple[str, ...] = ()
    well_at: float = NEVER
    well_after: float = NEVER
    relapse: float | None = None
    health: str | None = None
    tells: bool = True
    depends_on: tuple[str, ...] = ()
    known: bool = True


@dataclass(frozen=True)
class Event:
    """When a service's open incident is in a state, and waits for something that holds a text: do this."""

    service: str
    state: str
    do: str  # a decision over the API, or `fail`, `mode`, `prometheus`
    about: str = ""  # the service that begins to fail, the mode, or `back`
    waiting: str = ""
    last: bool = False  # only when all other events are over


@dataclass(frozen=True)
class Story:
    """One world."""

    name: str
    members: tuple[Member, ...]
    events: tuple[Event, ...] = ()
    mode: str = "automatic"
    prometheus_away: bool = False
    resend: bool = True  # whether a notification that was not acknowledged comes again
    repeats: float = 0.3  # how likely an acknowledged notification comes again
    settings: Mapping[str, Any] = field(default_factory=dict)

    def index(self, service: str) -> int:
        """The number of a service on the board."""
        return next(index for index, member in enumerate(self.members) if member.name == service)

    def member(self, service: str) -> Member:
        """A service by its name."""
        return self.members[self.index(service)]

    def prepare(self, board: Board) -> None:
        """Write the beginning on the board."""
        for index, member in enumerate(self.members):
            if member.fails_at is not None:
                board.fail(index, START + member.fails_at)
            if member.health == "lies":
                board.pretend_healthy(index)

    def well(self, board: Board, service: str, at: float) -> bool:
        """Whether the service works at that time, by what was done at the target until then."""
        member, fails_at = self.member(service), board.fails_at(self.index(service))
        if fails_at is None or at < fails_at or at >= self.well_from(board, service):
            return True
        if not member.needs:
            return False
        for needed in member.needs:
            # A cause that was repaired before its symptom would have begun leaves nothing to suffer from.
            since = fails_at if needed == service else START
            times = [each for each in board.effects(self.index(needed)) if since <= each <= at]
            if not times:
                return False
            if member.relapse is not None and needed == service and at >= times[0] + member.relapse:
                return any(each >= times[0] + member.relapse for each in times[1:])
        return True

    def well_from(self, board: Board, service: str) -> float:
        """When somebody repairs it, whatever the fabric does."""
        member, times = self.member(service), board.effects(self.index(service))
        return min(START + member.well_at, times[0] + member.well_after if times else NEVER)

    def values(self, target: str, store: str) -> dict[str, Any]:
        """The fabric's configuration."""
        return {
            "store": store,
            "mode": self.mode,
            "reconcile_interval": 5,
            "relapse_window": 33,
            "workers": 4,
            "prometheus": {"scrape_interval": 1, "evaluation_interval": 1},
            "verification": {"stability": 3, "deadline": 15, "interval": 2},
            "guardrails": {"cooldown": 20, "max_actions": 8, **UNBOUND},
            "retry": {"attempts": 2, "base": 1, "cap": 2, "timeout": 5},
            "correlation": {"window": 300, "wait_for_cause": 40},
            "escalation": {"max_wait": 30, "levels": _levels()},
            "plans": {"service_failure": ["retry", "restart"]},
            "services": {
                member.name: self._service(member, f"{target}/{self.index(member.name)}/{member.name}")
                for member in self.members
                if member.known
            },
            **self.settings,
        }

    def _service(self, member: Member, url: str) -> dict[str, Any]:
        http = {"restart": f"{url}/restart", "timeout": EFFECT_TIMEOUT}
        if member.tells:
            http["started_at"] = f"{url}/started_at"
        service: dict[str, Any] = {"recovery": {"http": http}, "depends_on": list(member.depends_on)}
        if member.health is not None:
            service["health"] = f"{url}/health"
        return service


def _levels() -> list[dict[str, Any]]:
    return [{"name": f"level {number}", "deadline": 60 if number else 25} for number in range(5)]


def _repairs() -> Story:
    """What one restart heals, with a health check before it, with a target that cannot tell, and in vain."""
    return Story(
        "repairs",
        (
            Member("cart", (1, 1), needs=("cart",)),
            Member("mail", (1, 1), needs=("mail",), health="follows"),
            Member("bank", (1, 1), needs=("bank",), tells=False),
            Member("lost", (1, 1), well_after=30.0),
        ),
    )


def _relapses() -> Story:
    """A health check that lies, a service that fails again after it was healed, and a stranger's alert."""
    return Story(
        "relapses",
        (
            Member("blog", (1, 1), needs=("blog",), health="lies"),
            Member("shop", (1, 2), needs=("shop",), relapse=14.0),
            Member("stranger", (0, 0), well_at=40.0, known=False),
        ),
    )


def _causes() -> Story:
    """Symptoms whose cause alerts only while they are at work; one of them turns out to be none."""
    return Story(
        "causes",
        (
            Member("api", (0, 0), needs=("db",), depends_on=("db",)),
            Member("web", (1, 1), needs=("web",), depends_on=("db",)),
            Member("db", (1, 1), fails_at=None, needs=("db",)),
            Member("idle", (0, 0), well_at=40.0),
            Member("team", (0, 0), well_at=40.0),
        ),
        events=(
            Event("web", "recovering", "fail", "db", waiting="paused"),
            Event("idle", "recovering", "close", waiting="paused"),
            Event("team", "recovering", "escalate", waiting="paused"),
            Event("db", "recovering", "mode", "automatic", waiting="paused", last=True),
        ),
        mode="paused",
    )


def _approvals() -> Story:
    """People who allow, refuse, close, and do not answer."""
    return Story(
        "approvals",
        (
            Member("yes", (1, 1), needs=("yes",), tells=False),
            Member("no", (0, 0), well_at=50.0),
            Member("shut", (0, 0), well_at=50.0),
            Member("mute", (0, 0)),
        ),
        events=(
            Event("yes", "awaiting_approval", "approve"),
            Event("no", "awaiting_approval", "reject"),
            Event("shut", "awaiting_approval", "close"),
            Event("mute", "escalated", "acknowledge"),
            Event("mute", "escalated", "close"),
        ),
        mode="approval",
    )


def _late_causes() -> Story:
    """Causes that alert when people are asked about their symptoms, or called for them, already."""
    return Story(
        "late causes",
        (
            Member("page", (0, 0), needs=("disk",), depends_on=("disk",)),
            Member("disk", (1, 1), fails_at=None, needs=("disk",)),
            Member("feed", (0, 0), needs=("host",), depends_on=("host",)),
            Member("host", (1, 1), fails_at=None, needs=("host",)),
        ),
        events=(
            Event("page", "awaiting_approval", "fail", "disk"),
            Event("feed", "escalated", "fail", "host"),  # nobody has answered in time
            Event("disk", "awaiting_approval", "approve"),
            Event("host", "awaiting_approval", "approve"),
        ),
        mode="approval",
    )


def _blind() -> Story:
    """Prometheus is away at first: what waits for it is closed, handed over, or healed in the end."""
    return Story(
        "blind",
        (
            Member("early", (0, 1), well_at=40.0),
            Member("bored", (0, 0), well_at=40.0),
            Member("upset", (0, 0), well_at=40.0),
            Member("calm", (1, 1), needs=("calm",), alert_after=8.0, tells=False),
            Member("seen", (0, 1), needs=("seen",), alert_after=8.0),
        ),
        events=(
            Event("early", "detected", "close"),
            Event("bored", "diagnosing", "close", waiting="away"),
            Event("upset", "diagnosing", "escalate", waiting="away"),
            Event("calm", "diagnosing", "prometheus", "back", waiting="away"),
            Event("seen", "verifying", "close"),
        ),
        prometheus_away=True,
    )


def _merges() -> Story:
    """A restart of a symptom in vain, while its cause, which nothing heals, gets an incident of its own."""
    return Story(
        "merges",
        (
            Member("edge", (1, 1), depends_on=("core",)),
            Member("core", (1, 1), fails_at=None),
            Member("side", (0, 0), needs=(), depends_on=("core",), fails_at=None),
        ),
        events=(
            Event("edge", "verifying", "fail", "core"),
            Event("core", "escalated", "fail", "side"),
        ),
    )


_STORIES = (_repairs, _relapses, _causes, _approvals, _late_causes, _blind, _merges)
STORIES: tuple[str, ...] = tuple(make().name for make in _STORIES)


def story(name: str, dice: random.Random) -> Story:
    """A story with the times and the order of this throw."""
    found = next(made for make in _STORIES if (made := make()).name == name)
    return replace(found, members=tuple(_shifted(member, dice) for member in found.members))


def _shifted(member: Member, dice: random.Random) -> Member:
    """Its failure and its alert somewhat later."""
    if member.alert_after is not None:
        member = replace(member, alert_after=member.alert_after + dice.choice((0.0, dice.uniform(0.0, 3.0))))
    if member.fails_at is not None:
        member = replace(member, fails_at=dice.choice((0.0, dice.uniform(0.0, 4.0))))
    return member


def names(members: Sequence[Member]) -> list[str]:
    """Their names."""
    return [member.name for member in members]
