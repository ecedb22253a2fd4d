"""What a replay tells: each incident that would have opened, and whether the fabric is to be trusted.

Read from the replay's own store: the timeline is where the product writes down what it does and why, so the
report can say nothing that the product would not have said. Everything in it follows from the history, the
rules and the configuration, so the same question has the same answer, byte for byte.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from statistics import median
from typing import Any

from sqlalchemy import Connection, Row

from self_healing_fabric.incidents.lifecycle import ENDED
from self_healing_fabric.incidents.timeline import Kind
from self_healing_fabric.orchestration.context import Context
from self_healing_fabric.recovery.planning import TRUSTED_CAUSE
from self_healing_fabric.replay.detection import Told
from self_healing_fabric.replay.history import Coverage
from self_healing_fabric.replay.outcomes import Disruption, stopped_if_all_healed, stopped_if_none_healed
from self_healing_fabric.store import statements

PAGE = 500  # incidents read at once
EFFECT_UNKNOWN = (
    "Nothing was performed, so what an action would have achieved is not known: an incident that would have "
    "been acted on lasts as long as history says, and nobody is called for it any more."
)
NOT_REPLAYED = (
    "Silences, acknowledgements and approvals of people are not replayed: nothing was silenced, and nobody "
    "answered."
)


def report_of(
    context: Context, told: Sequence[Told], coverage: Coverage, *, since: float, until: float,
    service: str | None, left_out: Sequence[str], settled: bool,
) -> dict[str, Any]:  # fmt: skip
    """The whole report, as JSON.

    `since` and `until` are what was asked for, in seconds since 1970; `told` the alerts of that time.
    """
    stories = [_incident(context, row) for row in _incidents(context)]
    whole = [story for story in stories if story["merged_into"] is None]
    if service is not None:
        whole = [story for story in whole if service in (story["service"], *story["symptoms"])]
    settings = context.settings
    return {
        "asked": {"since": _iso(since), "until": _iso(until), "service": service},
        "history": {
            "from": _iso(coverage.start),
            "until": _iso(coverage.end),
            "seconds": round(coverage.seconds, 3),
            "pauses": [{"from": _iso(begin), "until": _iso(end)} for begin, end in coverage.pauses],
        },
        "mode": settings.mode.value,
        "services": len(settings.services) if service is None else 1,
        "alerts": _alerts(told, service),
        "rules_left_out": sorted(set(left_out)),
        "settled": settled,
        "guardrails_not_asked": sorted(settings.plugins.guardrails),
        "incidents": whole,
        "summary": _summary(whole, coverage, merged=len(stories) - len(whole) if service is None else 0),
        "effect": EFFECT_UNKNOWN,
        "not_replayed": NOT_REPLAYED,
        "stopped_by_outcomes": _stopped_by_outcomes(whole, context),
    }


def _incidents(context: Context) -> list[Row[Any]]:
    """All incidents, oldest first."""
    rows: list[Row[Any]] = []
    before: tuple[float, str] | None = None
    while True:

        def read(connection: Connection, before: tuple[float, str] | None = before) -> Sequence[Row[Any]]:
            return statements.list_incidents(connection, before=before, merged=True, limit=PAGE)

        page = context.store.read(read)
        rows += page
        if len(page) < PAGE:
            return rows[::-1]
        before = (page[-1].opened_at, page[-1].id)


def _alerts(told: Sequence[Told], service: str | None) -> dict[str, dict[str, int]]:
    """How often each alert fired: those that the fabric hears of, and those that only people do."""
    fired = [
        each.rule
        for each in told
        if each.episode.ended_at is None and service in (None, dict(each.episode.labels).get("service"))
    ]
    return {
        "fabric": _counted(rule.name for rule in fired if rule.for_the_fabric),
        "people": _counted(rule.name for rule in fired if not rule.for_the_fabric),
    }


def _incident(context: Context, row: Row[Any]) -> dict[str, Any]:
    def read(connection: Connection) -> tuple[Sequence[Row[Any]], Sequence[Row[Any]]]:
        return statements.timeline_of(connection, row.id), statements.alerts_of(connection, row.id)

    entries, alerts = context.store.read(read)
    ends = [alert.ended_at for alert in alerts]
    ended_at = max(ends) if ends and None not in ends else None
    cause = (row.diagnosis or {}).get("cause", {})
    return {
        "id": row.id,
        "opened_at": _iso(row.opened_at),
        "service": row.service,
        "configured": row.known_service,
        "signal": row.signal,
        "severity": row.severity,
        "title": row.title,
        "alerts": [
            {
                "alert": alert.labels.get("alertname"),
                "service": alert.labels.get("service"),
                "fired_at": alert.starts_at,
                "ended_at": _iso(alert.ended_at),
            }
            for alert in alerts
        ],
        "symptoms": sorted({alert.service for alert in alerts} - {row.service, None}),
        "alerts_ended_at": _iso(ended_at),
        "seconds": None if ended_at is None else round(max(0.0, ended_at - row.opened_at), 3),
        "calm_at": _iso(row.resolved_at),
        "relapses": row.relapses,
        "merged_into": row.merged_into,
        "failure_class": row.failure_class,
        "cause": {
            "pattern": row.pattern,
            "service": cause.get("service"),
            "confidence": row.confidence,
            "abstained": bool((row.diagnosis or {}).get("abstained")),
            "lead": (row.diagnosis or {}).get("lead"),
        }
        if row.diagnosis
        else None,
        "missing": list((row.diagnosis or {}).get("missing", ())),
        "open_at_the_end": row.state not in ENDED,
        "course": [told for entry in entries for told in _told(entry, row.opened_at)],
    }


def _told(entry: Row[Any], opened_at: float) -> Iterable[dict[str, Any]]:
    """What an entry of the timeline says of what would have been done."""
    here = {"at": _iso(entry.at), "seconds": round(entry.at - opened_at, 3)}
    data = entry.data
    if entry.kind == Kind.ACTION.value and "target" in data:
        yield {**here, "what": "intent", "strategy": data["strategy"], "target": data["target"]}
    elif entry.kind == Kind.NOTE.value and data.get("refused_by"):
        yield {**here, "what": "guardrail", "guardrail": data["refused_by"], "reason": entry.message}
    elif entry.kind == Kind.NOTE.value and "strategy" in data:
        yield {**here, "what": "would", "strategy": data["strategy"], "target": data["target"]}
    elif entry.kind == Kind.PLAN.value and "strategy" in data:
        yield {**here, "what": "approval", "strategy": data["strategy"], "target": data["target"]}
    elif entry.kind == Kind.GUARDRAIL.value:
        yield {**here, "what": "guardrail", "guardrail": data["guardrail"], "reason": data["reason"]}
    elif entry.kind == Kind.ESCALATION.value and "level" in data:
        level = {"level": data["level"], "called": data["called"], "reason": data["reason"]}
        yield {**here, "what": "page", **level}


def _summary(stories: Sequence[Mapping[str, Any]], coverage: Coverage, *, merged: int) -> dict[str, Any]:
    def of(what: str) -> list[Mapping[str, Any]]:
        return [told for story in stories for told in story["course"] if told["what"] == what]

    actions = [*of("intent"), *of("would")]
    acted = [
        story for story in stories if any(told["what"] in ("intent", "would") for told in story["course"])
    ]
    soon = [
        next(told["seconds"] for told in story["course"] if told["what"] in ("intent", "would"))
        for story in acted
    ]
    diagnosed = [story for story in stories if story["cause"] is not None]
    named = [
        story
        for story in diagnosed
        if not story["cause"]["abstained"] and (story["cause"]["confidence"] or 0.0) >= TRUSTED_CAUSE
    ]
    days = coverage.seconds / 86_400
    return {
        "incidents": len(stories),
        "incidents_per_day": round(len(stories) / days, 3) if days else None,
        "merged": merged,
        "incidents_acted_on": len(acted),
        "median_seconds_to_first_action": round(median(soon), 3) if soon else None,
        "actions": _counted(told["strategy"] for told in actions),
        "approvals_asked": len(of("approval")),
        "guardrail_blocks": _counted(told["guardrail"] for told in of("guardrail")),
        "pages": len(of("page")),
        "pages_by_level": _counted(str(told["level"]) for told in of("page")),
        "incidents_without_pages": sum(
            all(told["what"] != "page" for told in story["course"]) for story in stories
        ),
        "causes_named": len(named),
        "causes_not_named": len(diagnosed) - len(named),
        "by_service": _counted(str(story["service"]) for story in stories),
    }


def _stopped_by_outcomes(stories: Sequence[Mapping[str, Any]], context: Context) -> dict[str, int]:
    """What the guardrails that count outcomes would have stopped, at most."""
    actions = [
        Disruption(
            datetime.fromisoformat(told["at"]).timestamp(), story["service"], told["strategy"], told["target"]
        )
        for story in stories
        for told in story["course"]
        if told["what"] in ("intent", "would") and context.strategies[told["strategy"]].disruptive
    ]
    return {
        "max_heals_if_all_healed": stopped_if_all_healed(actions, context.settings),
        "max_failures_if_none_healed": stopped_if_none_healed(actions, context.settings),
    }


def _counted(words: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(words).items()))


def _iso(at: float | None) -> str | None:
    if at is None:
        return None
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
