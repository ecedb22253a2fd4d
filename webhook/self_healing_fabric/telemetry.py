"""The names of all metrics and the set-up of the log, in one place: dashboards and people rely on them.

A counter that is born at its first event loses that event: `increase()` starts from the first sample it sees.
So every series of a configured service exists at 0 from start. States are not counted here but read from the
store when Prometheus scrapes (`integration.status`), so a restart cannot make the gauges lie.
"""

from __future__ import annotations

import logging
import select
import sys
import threading
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TextIO

import structlog
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)

from self_healing_fabric import __version__
from self_healing_fabric.extensions import BUILT_IN

UNKNOWN_SERVICE = "unknown"
STRATEGIES = BUILT_IN["strategies"]
ACTION_OUTCOMES = ("succeeded", "failed", "indeterminate")
RESOLVED_OUTCOMES = ("healed", "recovered", "closed_by_person")
GUARDRAILS = BUILT_IN["guardrails"]
LEVELS_THAT_CALL = ("1", "2", "3", "4")
CALL_OUTCOMES = ("sent", "failed")
WEBHOOK_CODES = ("202", "400", "401", "403", "413", "422", "503")

_PART = select.PIPE_BUF // 4  # characters, of four bytes at most: so much fits where there is any room
_PATIENCE = 1000  # milliseconds in which whoever reads the log may be busy otherwise

_SECONDS_OF_WORK = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_SECONDS_TO_RECOVER = (5, 10, 20, 30, 45, 60, 90, 120, 180, 300, 600, 1200, 3600)


class Metrics:
    """All counters, histograms and directly set gauges. One instance, and one registry, for each fabric.

    Args:
        services: those whose series are there from the start, at 0.
        usable: the strategies that a service can have; all for one that is not named. Thousands of services
            times strategies that none of them has would be most of what Prometheus scrapes.
        strategies: all that there are.
        guardrails: those that plugins bring.
        channels: the names of the channels of escalation.
        alertmanager: whether there is one to compare with.
    """

    def __init__(
        self,
        services: Iterable[str],
        usable: Mapping[str, Collection[str]] | None = None,
        *,
        strategies: Collection[str] = STRATEGIES,
        guardrails: Collection[str] = (),
        channels: Iterable[str] = (),
        alertmanager: bool = False,
    ) -> None:
        # When each of thousands of series was born interests nobody and is a third of all lines.
        disable_created_metrics()  # type: ignore[no-untyped-call]  # prometheus_client 0.26 left its types out
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        registry = self.registry
        self.opened = Counter(
            "shf_incidents_opened_total", "Incidents opened.", ["service"], registry=registry
        )
        self.resolved = Counter(
            "shf_incidents_resolved_total",
            "Incidents resolved; outcome: healed, recovered, closed_by_person.",
            ["service", "outcome"],
            registry=registry,
        )
        self.actions = Counter(
            "shf_recovery_actions_total",
            "Finished recovery actions; outcome: succeeded, failed, indeterminate.",
            ["service", "strategy", "outcome"],
            registry=registry,
        )
        self.action_seconds = Histogram(
            "shf_recovery_action_duration_seconds",
            "From the start of an effect to its end.",
            ["strategy"],
            buckets=_SECONDS_OF_WORK,
            registry=registry,
        )
        self.recover_seconds = Histogram(
            "shf_time_to_recover_seconds",
            "From the opening of an incident to its resolution.",
            ["service"],
            buckets=_SECONDS_TO_RECOVER,
            registry=registry,
        )
        self.diagnosis_seconds = Histogram(
            "shf_diagnosis_duration_seconds",
            "From the first query to the diagnosis.",
            buckets=_SECONDS_OF_WORK,
            registry=registry,
        )
        self.blocks = Counter(
            "shf_guardrail_blocks_total",
            "Actions that a guardrail refused.",
            ["service", "guardrail"],
            registry=registry,
        )
        self.requests = Counter(
            "shf_webhook_requests_total",
            "Notifications answered, by status code.",
            ["code"],
            registry=registry,
        )
        self.unknown_secrets = Counter(
            "shf_unknown_secrets_total",
            "Requests and attempts to sign in with a token or password that nobody has.",
            registry=registry,
        )
        self.alerts = Counter(
            "shf_alerts_received_total", "Alerts in accepted notifications.", ["status"], registry=registry
        )
        self.truncated = Counter(
            "shf_alerts_truncated_total",
            "Alerts that `max_alerts` of the receiver cut off; they are fetched from Alertmanager.",
            registry=registry,
        )
        self.merged = Counter(
            "shf_incidents_merged_total",
            "Incidents that turned out to be a symptom of another one.",
            ["service"],
            registry=registry,
        )
        self.events = Counter(
            "shf_events_total",
            "Events of incidents; outcome: delivered, refused (never asked again), failed (told again).",
            ["receiver", "outcome"],
            registry=registry,
        )
        self.last_reconcile = Gauge(
            "shf_last_reconcile_timestamp_seconds",
            "When the servers were last compared with.",
            registry=registry,
        )
        self.alertmanager_compared = Gauge(
            "shf_alertmanager_compared_timestamp_seconds",
            "When the alerts were last compared with Alertmanager's list; 0: never yet.",
            registry=registry if alertmanager else None,
        )
        Gauge("shf_build_info", "Always 1.", ["version"], registry=registry).labels(__version__).set(1)
        self._start_at_zero(services, usable or {}, strategies, (*GUARDRAILS, *guardrails))
        self.calls = Counter(
            "shf_escalation_calls_total",
            "Tries to call somebody; outcome: sent, failed.",
            ["level", "channel", "outcome"],
            registry=registry,
        )
        self.unreached = Counter(
            "shf_escalation_unreached_total",
            "Levels of which nobody could be reached.",
            ["level"],
            registry=registry,
        )
        for level in LEVELS_THAT_CALL:
            self.unreached.labels(level)
            for channel in channels:
                for outcome in CALL_OUTCOMES:
                    self.calls.labels(level, channel, outcome)

    def _start_at_zero(
        self,
        services: Iterable[str],
        usable: Mapping[str, Collection[str]],
        strategies: Collection[str],
        guardrails: Collection[str],
    ) -> None:
        for service in (*services, UNKNOWN_SERVICE):
            self.opened.labels(service)
            self.merged.labels(service)
            self.recover_seconds.labels(service)
            for outcome in RESOLVED_OUTCOMES:
                self.resolved.labels(service, outcome)
            for guardrail in guardrails:
                self.blocks.labels(service, guardrail)
            for strategy in usable.get(service, strategies):
                for outcome in ACTION_OUTCOMES:
                    self.actions.labels(service, strategy, outcome)
        for strategy in strategies:
            self.action_seconds.labels(strategy)
        for code in WEBHOOK_CODES:
            self.requests.labels(code)
        for status in ("firing", "resolved"):
            self.alerts.labels(status)


def _printable(_: object, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Other people's text must neither begin a new line nor steer a terminal; a traceback keeps its lines."""
    return {
        key: "".join(char if char.isprintable() else repr(char)[1:-1] for char in value)
        if isinstance(value, str) and key != "exception"
        else value
        for key, value in event.items()
    }


class _StandardError:
    """Where all lines go, ours and the libraries'. One that cannot be written is lost and nothing else, and
    how many were is told when there is room again: neither a full disk nor a pipe or terminal of which nobody
    reads may stop the healing.
    """

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._lock = threading.Lock()
        self._poll: select.poll | None = None
        with suppress(OSError, ValueError):  # none of the system's files: it lets nobody wait
            descriptor, self._poll = file.fileno(), select.poll()
            self._poll.register(descriptor, select.POLLOUT)
        self._lost = 0
        self._stuck = False
        self._torn = False

    def write(self, text: str) -> None:
        """Write a line with its end, or lose it."""
        with self._lock:
            before, self._stuck = self._stuck, not self._written(text)
            self._lost += self._stuck
            lost, again = self._lost, before and not self._stuck
        if again:
            structlog.get_logger().warning("log_lines_lost", since_start=lost)

    def flush(self) -> None:
        """Nothing is kept back."""

    def msg(self, message: str) -> None:
        """Write a line."""
        self.write(message + "\n")

    log = debug = info = warn = warning = error = critical = failure = fatal = exception = msg

    def _written(self, text: str) -> bool:
        text = "\n" + text if self._torn else text
        with suppress(OSError, ValueError):  # full, or closed by whoever read it
            for start in range(0, len(text), _PART):
                if not self._has_room():
                    return False
                self._file.write(text[start : start + _PART])
                self._file.flush()
                self._torn = True
            self._torn = False
            return True
        return False

    def _has_room(self) -> bool:
        """Whether a part can be written without waiting. Who reads slowly is waited for once, until it has
        read again."""
        return self._poll is None or bool(self._poll.poll(0 if self._stuck else _PATIENCE))


def configure_logging(*, json: bool) -> None:
    """Send structured log lines to standard error: JSON for machines, aligned text for a terminal."""
    output = _StandardError(sys.stderr)
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer()
        if json
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    processors: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    if not json:  # JSON escapes by itself
        processors.append(_printable)
    structlog.configure(
        processors=[*processors, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=lambda *_: output,
        cache_logger_on_first_use=True,
    )
    # Libraries log through the standard module: the same lines, from warnings up.
    formatter = structlog.stdlib.ProcessorFormatter(foreign_pre_chain=processors, processor=renderer)
    handler = logging.StreamHandler(output)
    handler.setFormatter(formatter)
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)


@contextmanager
def quiet() -> Iterator[None]:
    """Log nothing meanwhile: for a command that runs the fabric's parts and prints a result of its own."""
    before = structlog.get_config()["wrapper_class"]
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    try:
        yield
    finally:
        structlog.configure(wrapper_class=before)
