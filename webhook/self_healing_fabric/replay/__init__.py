"""Shadow replay: what the fabric would have done in the past, from what Prometheus remembers.

A healer is trusted when it has been seen to be right. Nobody wants to wait a month for that, and a demo is
somebody else's system. Here the rules and the fabric are held against one's own history: which incidents
would have opened, what would have been done and when, what the guardrails would have stopped, and who would
have been called. Only Prometheus is asked, every question is put at the time that is replayed, and nothing
is performed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import closing
from datetime import UTC, datetime
from typing import Any

from self_healing_fabric import outbound
from self_healing_fabric.durations import parse_duration
from self_healing_fabric.errors import UsageError
from self_healing_fabric.orchestration.context import Context
from self_healing_fabric.replay.alert_states import Labels
from self_healing_fabric.replay.course import Clock, Course, replayed_fabric
from self_healing_fabric.replay.detection import Detector, Told, reach_of
from self_healing_fabric.replay.history import (
    QUERY_TIMEOUT,
    Coverage,
    HistoricalPrometheus,
    History,
    HistoryUnavailable,
    moment,
)
from self_healing_fabric.replay.report import report_of
from self_healing_fabric.replay.rule_sets import read_rules, rule_files_in
from self_healing_fabric.settings import Settings

__all__ = ["HistoryUnavailable", "beginning_of", "moment_of", "replay", "rule_files_in"]

Progress = Callable[[float], None]
"""Told now and then which share is done, from 0 to 1."""


def replay(
    settings: Settings,
    rule_files: Mapping[str, str],
    *,
    since: float,
    until: float,
    service: str | None = None,
    progress: Progress = lambda share: None,
) -> dict[str, Any]:
    """Replay a stretch of history; return the report as JSON.

    Args:
        settings: of the fabric; its Prometheus is asked, its store is not touched.
        rule_files: texts of rule files by name, as `rules.render_rules` makes them.
        since, until: the stretch, in seconds since 1970 (UTC).
        service: report only incidents that touch it. All are replayed, for they share guardrails.
        progress: told now and then which share is done.

    Raises:
        UsageError: the stretch is empty, in the future or before 1970, the service or the rules are unknown.
        HistoryUnavailable: Prometheus does not answer, has nothing of it, or a rule cannot be replayed.
    """
    if service is not None and service not in settings.services:
        raise UsageError(f"no service is called {service}")
    if not settings.services:
        raise UsageError("the configuration names no service to replay: add some under `services`")
    if since >= until or until > time.time():
        raise UsageError("--since must be before --until, and --until not in the future")
    if since < 0:
        raise UsageError("--since and --until: a replay cannot begin before 1970")
    rules = read_rules(rule_files, interval=settings.prometheus.evaluation_interval)
    with closing(outbound.prometheus_client(settings, timeout=QUERY_TIMEOUT)) as client:
        history = History(client)
        whole = history.coverage(since - reach_of(rules), until, settings.prometheus.scrape_interval)
        if whole.end <= since:
            raise HistoryUnavailable(
                f"Prometheus holds no scrape between {moment(since)} and {moment(until)}: the last one "
                f"before is of {moment(whole.end)}"
            )
        metrics = history.learn_metrics(whole)
        detector = Detector(rules, settings, history, whole, metrics)
        clock = Clock(whole.since(since).start)
        past = HistoricalPrometheus(
            settings.prometheus.url, detector.recordings, metrics, clock,
            headers=settings.prometheus.headers, ca_file=settings.ca_file,
            cert_file=settings.cert_file, key_file=settings.key_file,
        )  # fmt: skip
        with closing(past), replayed_fabric(settings, past, clock) as context:
            told = _lived_through(detector, context, past, clock, whole, progress)
            return report_of(
                context, told, whole.since(since), since=since, until=until, service=service,
                left_out=rules.left_out, settled=detector.settled,
            )  # fmt: skip


def moment_of(text: str) -> float:
    """An ISO 8601 time as seconds since 1970; UTC where it names no zone. Raises UsageError."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError as error:
        raise UsageError(f"{text!r} is no time: write for example 2026-11-22T13:00:00Z") from error
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()


def beginning_of(since: str, until: float) -> float:
    """When a replay begins: so long before `until` (seconds since 1970), or at a time. Raises UsageError."""
    try:
        return until - parse_duration(since)
    except ValueError:
        return moment_of(since)


def _lived_through(
    detector: Detector,
    context: Context,
    past: HistoricalPrometheus,
    clock: Clock,
    whole: Coverage,
    progress: Progress,
) -> list[Told]:
    """Let the fabric live from the clock's time on; return the alerts of that time.

    What is replayed before only tells how things stood then: an alert that fired already is heard at once.
    """
    start, told = clock(), list[Told]()
    standing: dict[Labels, Told] = {}
    with closing(Course(context, past, clock)) as course:
        for stretch in detector.stretches():
            for each in stretch.told:
                if each.at < start and each.episode.ended_at is None:
                    standing[each.episode.labels] = each
                elif each.at < start:
                    standing.pop(each.episode.labels, None)
            if stretch.end > start:
                fresh = [*standing.values(), *(each for each in stretch.told if each.at >= start)]
                course.live(fresh, stretch.end)
                told += fresh
                standing = {}
            progress((stretch.end - whole.start) / (whole.end - whole.start))
    return told
