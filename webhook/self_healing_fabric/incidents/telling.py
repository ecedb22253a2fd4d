"""One incident as people are told it: the page and the terminal show this, and nothing beside it.

Two renderings of one incident drift apart until the page and the command line disagree at three in the
morning. So what is worth telling, in which order and in which words, is decided here once, from the JSON of
`GET /api/v1/incidents/ID`, and whoever shows it only paints. Nothing is escaped here: all text may come from
strangers, and whoever paints knows what its paint must be protected from.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from self_healing_fabric.durations import duration_in_words
from self_healing_fabric.incidents.lifecycle import ENDED

Json = Mapping[str, Any]

STATE_WORDS: Mapping[str, str] = {
    "detected": "just noticed",
    "diagnosing": "looking for the cause",
    "awaiting_approval": "waiting for a person's approval",
    "recovering": "repairing",
    "verifying": "proving that it healed",
    "escalated": "handed to people",
    "resolved": "over, still watched",
    "closed": "closed",
}
OUTCOME_WORDS: Mapping[str, str] = {
    "healed": "healed by the fabric, and proved",
    "recovered": "recovered by itself or by someone else, and proved",
    "closed_by_person": "closed by a person, without proof",
    "merged": "a symptom of another incident",
}
RUNBOOK = ("runbook_url", "runbook")  # annotations, as different rules call it
MOST_MARKED = 12  # actions in one plot; more would hide what they mark
SEVERITIES = ("critical", "warning", "info", "none")
_URGENCIES = ("now", "soon", "later")
_BEFORE_AN_EFFECT = ("detected", "diagnosing", "awaiting_approval", "recovering")


@dataclass(frozen=True)
class Fact:
    """One piece of evidence in words; `query` is for Prometheus unless `source` names another witness."""

    statement: str
    query: str
    source: str
    at: float | None
    value: str
    baseline: str
    weight: str
    against: bool = False


@dataclass(frozen=True)
class Suspect:
    """A cause with the confidence (0.0 to 1.0) in it and what speaks for it."""

    pattern: str
    service: str
    confidence: float
    facts: tuple[Fact, ...]
    told_apart_by: str | None = None


@dataclass(frozen=True)
class Finding:
    """The diagnosis.

    Attributes:
        failure_class, reason: what fails, and why it is called that.
        cause: the likeliest; None when the evidence carries none.
        lead: the service that is suspected anyway.
        alternatives: the other causes, likeliest first.
        facts: what carries the failure class, as far as it does not carry the cause.
        against: what speaks against the answer.
        missing: what could not be looked at.
        next_query: what to ask Prometheus next.
        impact: whom it hurts, line by line.
    """

    failure_class: str
    reason: str
    cause: Suspect | None
    lead: str
    alternatives: tuple[Suspect, ...]
    facts: tuple[Fact, ...]
    against: tuple[Fact, ...]
    missing: tuple[str, ...]
    next_query: str
    impact: tuple[str, ...]


@dataclass(frozen=True)
class Attempt:
    """One action: what was done to which target, and what came of it. Times in seconds since 1970."""

    strategy: str
    target: str
    attempt: int
    status: str
    verdict: str | None
    detail: str
    intended_at: float
    started_at: float | None
    finished_at: float | None
    took: str


@dataclass(frozen=True)
class Objection:
    """A guardrail that spoke."""

    guardrail: str
    reason: str
    at: float
    retry_at: float | None


@dataclass(frozen=True)
class Moment:
    """One line of the timeline; `facts` are pieces of evidence that were written down together."""

    id: int
    at: float
    kind: str
    message: str
    facts: tuple[Fact, ...] = ()
    diff: tuple[str, ...] = ()


@dataclass(frozen=True)
class Called:
    """Somebody who was called: over which channel, and what became of it."""

    contact: str
    channel: str
    level: int
    status: str
    reason: str
    error: str
    at: float
    ended: bool  # told that it is over, which is no call for help

    @property
    def whom(self) -> str:
        """Whom, how, and about what."""
        end = ", that it is over" if self.ended else ""
        return f"{self.contact} over {self.channel}, level {self.level}{end}"


@dataclass(frozen=True)
class Prospect:
    """What comes next, and when (seconds since 1970), if that is known."""

    text: str
    at: float | None = None


@dataclass(frozen=True)
class Mark:
    """What is marked in a plot over time; `kind` is opened, action or ended."""

    at: float
    kind: str
    text: str


@dataclass(frozen=True)
class Telling:
    """An incident as people are told it; `raw` is the JSON that it was read from."""

    raw: Json
    opened_at: float
    ended_at: float | None
    finding: Finding | None
    attempts: tuple[Attempt, ...]
    objections: tuple[Objection, ...]
    calls: tuple[Called, ...]
    timeline: tuple[Moment, ...]
    prospects: tuple[Prospect, ...]
    symptoms: tuple[str, ...]
    verdict: str | None
    decisions: tuple[str, ...]
    proposal: Moment | None  # what a person is asked to approve

    @property
    def marks(self) -> tuple[Mark, ...]:
        """What happened when, for a plot: the opening, the newest actions, the end."""
        found = [Mark(self.opened_at, "opened", "opened")]
        for each in self.attempts[-MOST_MARKED:]:
            result = f"{each.status}, {each.verdict.replace('_', ' ')}" if each.verdict else each.status
            at = each.started_at or each.intended_at
            found.append(Mark(at, "action", f"{each.strategy} {each.target}: {result}"))
        if self.ended_at is not None:
            found.append(Mark(self.ended_at, "ended", self.raw["outcome"] or "closed"))
        return tuple(found)

    @property
    def state(self) -> str:
        """The state in words."""
        return state_in_words(self.raw)

    @property
    def lasted(self) -> str | None:
        """How long it lasted, in words; None while it lasts."""
        return None if self.ended_at is None else duration_in_words(self.ended_at - self.opened_at)

    @property
    def runbook(self) -> str | None:
        """What the alerts name as their runbook: a stranger's text, which need not be a link."""
        annotations = [each["annotations"] for each in firing_first(self.raw["alerts"])]
        return next((each[name] for each in annotations for name in RUNBOOK if each.get(name)), None)


def firing_first(alerts: Iterable[Json]) -> list[Json]:
    """The alerts of an incident, those that are over last: what these advise is over, too."""
    return sorted(alerts, key=lambda alert: str(alert["status"]) != "firing")


def state_in_words(summary: Json) -> str:
    """The state of an incident, with its outcome where it has one."""
    words = STATE_WORDS.get(summary["state"], summary["state"])
    outcome = OUTCOME_WORDS.get(summary["outcome"] or "")
    return f"{words}: {outcome}" if outcome else words


def ended_at(summary: Json) -> float | None:
    """When it was over, in seconds since 1970; None while it lasts."""
    if summary["state"] not in ENDED:
        return None
    return _seconds(summary["resolved_at"] or summary["closed_at"])


def lasted_in_words(summary: Json) -> str:
    """How long it lasted, in words; empty while it lasts."""
    opened, ended = _seconds(summary["opened_at"]), ended_at(summary)
    return "" if opened is None or ended is None else duration_in_words(ended - opened)


def needs_person(summary: Json) -> bool:
    """Whether nothing goes on until somebody decides, or nobody has taken it yet."""
    waits = summary["state"] == "awaiting_approval"
    return waits or (summary["state"] == "escalated" and not summary["acknowledged_by"])


def by_urgency(summary: Json) -> tuple[Any, ...]:
    """What a list is sorted by: who waits for a person, then how urgent it is, how severe, how old."""
    return (
        not needs_person(summary),
        _place(summary["urgency"], _URGENCIES),
        _place(summary["severity"], SEVERITIES),
        summary["opened_at"],
    )


def tell(raw: Json) -> Telling:
    """Tell an incident from the JSON of the API."""
    return Telling(
        raw=raw,
        opened_at=_seconds(raw["opened_at"]) or 0.0,
        ended_at=ended_at(raw),
        finding=_finding(raw["diagnosis"]) if raw["diagnosis"] else None,
        attempts=tuple(_attempt(each, raw["service"]) for each in raw["actions"]),
        objections=tuple(_objections(raw["timeline"])),
        calls=tuple(_called(each) for each in raw.get("calls", ())),
        timeline=tuple(_moments(raw["timeline"])),
        prospects=tuple(_prospects(raw)),
        symptoms=tuple(sorted({each["service"] for each in raw["alerts"]} - {raw["service"], None})),
        verdict=verdict_in_words(raw["verdict"]) if raw["verdict"] else None,
        decisions=tuple(raw["next"]["decisions"]),
        proposal=next(_moments(_asked(raw)), None),
    )


def _asked(raw: Json) -> Sequence[Json]:
    """The entry that asks for an approval now, if there is one."""
    if raw["state"] != "awaiting_approval":
        return ()
    return [each for each in raw["timeline"] if each["kind"] == "plan" and "action" in each["data"]][-1:]


def verdict_in_words(given: Json) -> str:
    """Whether the diagnosis was right, and who says so."""
    if given["source"] == "repair":  # a weak one, which the fabric gives itself
        healed = given["service_right"]
        effect, service = ("healed", "right") if healed else ("did not heal", "probably wrong")
        return f"the {given['by']} {effect} it, so the service was {service}; the pattern is not judged"
    right = {True: "right", False: "wrong", None: "not judged"}
    truth = ", ".join(given[name] for name in ("service", "pattern") if given[name])
    if not given.get("known_service", True):
        truth += f"; no service is called {given['service']} here: is it spelt so?"
    return (
        f"verdict of {given['by']}: service {right[given['service_right']]}, "
        f"pattern {right[given['pattern_right']]}" + (f" (it was {truth})" if truth else "")
    )


def target_in_words(key: str) -> str:
    """The target of an action as people know it: a URL names its platform by itself."""
    return key.removeprefix("http:") if key.startswith(("http:http:", "http:https:")) else key


def _place(value: str | None, order: Sequence[str]) -> int:
    return order.index(value) if value in order else len(order)


def _seconds(text: str | None) -> float | None:
    return None if text is None else datetime.fromisoformat(text).timestamp()


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _fact(told: Json, *, against: bool = False) -> Fact:
    query, value = str(told.get("query", "")), told.get("value")
    baseline, weight = told.get("baseline"), told.get("weight")
    shown = _number(value)
    if value is not None and (value == told.get("at") or "start_time" in query):
        shown = moment_in_words(value)
    return Fact(
        statement=str(told.get("statement", "")),
        query=query,
        source=told.get("source", "prometheus"),
        at=told.get("at"),
        value=shown,
        baseline=_number(baseline),
        # What series tell over time is weighed in bits, what rules tell by the share that it adds.
        weight="" if weight is None else f"{weight:.1f} bits" if baseline is not None else f"{weight:.2f}",
        against=against,
    )


def moment_in_words(value: float) -> str:
    """A time in seconds since 1970, as people read it."""
    return datetime.fromtimestamp(value, UTC).strftime("%-d %b %H:%M:%S UTC")


def _suspect(told: Json) -> Suspect:
    return Suspect(
        pattern=told["pattern"],
        service=told["service"],
        confidence=told["confidence"],
        facts=tuple(_fact(each) for each in told.get("evidence", ())),
        told_apart_by=told.get("told_apart_by"),
    )


def _finding(told: Json) -> Finding:
    cause = _suspect(told["cause"]) if "cause" in told else None
    if cause is not None and cause.pattern == "unknown":
        cause = None
    everything = [
        *told.get("evidence", ()),
        *(fact for each in told.get("alternatives", ()) for fact in each.get("evidence", ())),
    ]
    known = {each["statement"]: each for each in everything}
    carried = {fact.statement for fact in cause.facts} if cause else set()
    against = told.get("against", ())
    return Finding(
        failure_class=told["failure_class"],
        reason=told.get("reason", ""),
        cause=cause,
        lead=told.get("lead") or "",
        alternatives=tuple(_suspect(each) for each in told.get("alternatives", ())),
        facts=tuple(
            _fact(each)
            for each in told.get("evidence", ())
            if each["statement"] not in carried and each["statement"] not in against
        ),
        against=tuple(_fact(known.get(each, {"statement": each}), against=True) for each in against),
        missing=tuple(told.get("missing", ())),
        next_query=told.get("next_query") or "",
        impact=tuple(impact_in_words(told["impact"])) if told.get("impact") else (),
    )


def impact_in_words(told: Json) -> Iterator[str]:
    """Whom it hurts, how much, and how urgent that is."""
    share = told["users_affected"]
    rate = told["requests_affected"]
    if share is None:
        suffers = "an unknown share of the requests suffers"
    elif share == 0:
        suffers = "no request is known to suffer"
    elif share >= 1:
        suffers = "all requests suffer"
    else:
        suffers = f"at least {min(share * 100, 99):.2g} % of the requests suffer"
    yield suffers + (f", {rate:{'.0f' if rate >= 100 else '.3g'}} each second" if rate else "")
    behind = told["dependants"]
    if behind:
        yield f"services that depend on it: {', '.join(behind)}"
    tier, highest = told["tier"], told["business_tier"]
    yield f"tier {tier}" + ("" if tier == highest else f", and {highest} with what depends on it")
    if told["budget_burn"] is not None:
        yield f"the error budget is used up {told['budget_burn']:.1f} times too fast"
    yield {"now": "urgent: now", "soon": "urgent: soon", "later": "not urgent"}[told["urgency"]]


def _attempt(told: Json, suspected: str | None) -> Attempt:
    service = told.get("service", suspected)  # a fabric of the version before does not tell it
    elsewhere = "" if service == suspected else f" of {service}"
    started, finished = _seconds(told["started_at"]), _seconds(told["finished_at"])
    return Attempt(
        strategy=told["strategy"],
        target=target_in_words(told["target"]) + elsewhere,
        attempt=told["attempt"],
        status=told["status"],
        verdict=told["verdict"],
        detail=told["detail"] or "",
        intended_at=_seconds(told["intended_at"]) or 0.0,
        started_at=started,
        finished_at=finished,
        took="" if started is None or finished is None else duration_in_words(finished - started),
    )


def _called(told: Json) -> Called:
    return Called(
        contact=told["contact"],
        channel=told["channel"],
        level=told["level"],
        status=told["status"],
        reason=told["reason"],
        error=told["error"] or "",
        at=_seconds(told["sent_at"] or told["created_at"]) or 0.0,
        ended=told.get("kind") == "ended",
    )


def _objections(entries: Sequence[Json]) -> Iterator[Objection]:
    for entry in entries:
        if entry["kind"] == "guardrail":
            told = entry["data"]
            name, reason = told.get("guardrail", "guardrail"), told.get("reason", entry["message"])
            yield Objection(name, reason, _seconds(entry["at"]) or 0.0, told.get("retry_at"))


def _moments(entries: Sequence[Json]) -> Iterator[Moment]:
    """The timeline; evidence that was written down in one step is one moment."""
    pending: list[Json] = []
    for entry in entries:
        if pending and (entry["kind"] != "evidence" or entry["at"] != pending[0]["at"]):
            yield _evidence(pending)
            pending = []
        if entry["kind"] == "evidence":
            pending.append(entry)
            continue
        data = entry["data"]
        yield Moment(
            id=entry["id"],
            at=_seconds(entry["at"]) or 0.0,
            kind=entry["kind"],
            message=entry["message"],
            # The diagnosis shows its own evidence; a verification's is nowhere else.
            facts=tuple(_fact(each) for each in data.get("evidence") or ())
            if entry["kind"] == "verification"
            else (),
            diff=tuple(data.get("diff") or ()),
        )
    if pending:
        yield _evidence(pending)


def _evidence(entries: Sequence[Json]) -> Moment:
    facts = tuple(_fact({"statement": each["message"], **each["data"]}) for each in entries)
    message = facts[0].statement if len(facts) == 1 else f"{len(facts)} facts were looked up."
    return Moment(entries[0]["id"], _seconds(entries[0]["at"]) or 0.0, "evidence", message, facts)


def _prospects(raw: Json) -> Iterator[Prospect]:
    """What is tried, what is waited for, and when it goes on."""
    state, coming = raw["state"], raw["next"]
    due, level_due = _seconds(coming["due_at"]), _seconds(coming["level_due_at"])
    if raw["merged_into"]:
        yield Prospect(f"It goes on as incident {raw['merged_into']}, that of its cause.")
        return
    if state == "closed":
        return
    if coming["mode"] == "paused":
        more = "nothing more" if coming["action_under_way"] else "nothing"
        yield Prospect(f"Paused: {more} is begun before somebody lifts that; it is only watched.")
    elif coming["mode"] == "dry_run" and state in _BEFORE_AN_EFFECT:
        yield Prospect("Dry run: nothing is done, whoever allows it; people are told what would be.")
    yield from _of_state(raw, due)
    if len(raw["plan"]) > 1 and state in ("awaiting_approval", "recovering", "verifying"):
        rest = ", then ".join(raw["plan"][1:])
        yield Prospect(f"If that does not heal: {rest}. After that, people are called.")
    level = coming["next_level"]
    if level is not None and state not in ENDED:
        whom = f"level {level['level']} ({level['name']})"
        if raw["acknowledged_by"]:
            yield Prospect(f"{raw['acknowledged_by']} has taken it: no further level is called.")
        elif level_due is not None:
            yield Prospect(f"Unless somebody acknowledges it, {whom} is called.", level_due)


def _of_state(raw: Json, due: float | None) -> Iterator[Prospect]:
    state, waiting, plan = raw["state"], raw["waiting_for"], raw["plan"]
    verification = raw["next"]["verification"]
    deadline = _seconds(verification["deadline"]) if verification else None
    if state == "awaiting_approval":
        what = f"{plan[0]} {raw['service']}" if plan else "the plan"
        yield Prospect(f"A person must allow it: {what}.")
        yield Prospect("If nobody answers until then, it is not done any more.", deadline)
        return
    if waiting:
        yield Prospect(f"Waits for: {waiting}.", due)
        return
    if state in ("detected", "diagnosing"):
        yield Prospect("Prometheus and the platforms are asked what fails and why.", due)
    elif state == "recovering" and raw["next"]["action_under_way"]:
        yield Prospect(f"{plan[0] if plan else 'An action'} has begun, and is not called back any more.")
    elif state == "recovering":
        yield Prospect(f"{plan[0] if plan else 'The next strategy'} is tried.", due)
    elif state == "verifying":
        yield Prospect("Fresh samples are watched until they prove that it healed.", due)
        yield Prospect("Without that proof it counts as not healed.", deadline)
    elif state == "escalated":
        yield Prospect("Nothing is done by itself any more; it is watched whether it heals.", due)
    elif state == "resolved":
        yield Prospect("Closes if it stays calm; an alert that returns opens it again.", due)
