"""What happens to incidents, as CloudEvents 1.0, told at least once and in order.

Nothing is queued: the timeline is on disk already, append-only and written in the transaction of what it
tells. So an event is a line of the timeline, and what a receiver has got so far is a cursor over it. A
receiver that is away for a day costs no memory and gets everything afterwards; after a restart telling goes
on from the cursor, and what was told but not noted is told again with the same id.

Of several replicas the leader tells. One that was frozen while it told an event, or died before it noted it,
is followed by another one that tells it again, which is what "at least once" means; what comes after that it
leaves to the other. The cursor only goes forward.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Protocol

import httpx
import structlog
from sqlalchemy import Connection

from self_healing_fabric import outbound
from self_healing_fabric.errors import ShfError, StoreUnavailable
from self_healing_fabric.extensions import call, make
from self_healing_fabric.incidents.timeline import Kind
from self_healing_fabric.orchestration.context import Context
from self_healing_fabric.settings import EventSettings, bearer_headers
from self_healing_fabric.store import event_statements
from self_healing_fabric.store.statements import AnyRow

log = structlog.get_logger()

PREFIX = "io.github.self-healing-fabric."
CONTENT_TYPE = "application/cloudevents+json; charset=utf-8"
BATCH = 100  # lines of the timeline that are read at once
POLL = 0.5  # seconds between two looks for new ones
NOTED_EVERY = 0.1  # seconds; what was told since the last note is told again after a kill
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0  # seconds after a delivery that failed; doubles
STARVED = 5.0  # seconds after which the reader waits for the writers instead of trying
RETRIED = frozenset({401, 403, 404, 408, 425, 429})  # of 4xx: somebody will correct that
LONGEST_CALL = 30.0  # seconds for a plugin or a host to take one event


class EventRefused(ShfError):
    """The receiver will never take this event: it is left out, logged and counted."""


class EventSink(Protocol):
    """Where events go. What `send` raises, other than EventRefused, gets the same event again later."""

    def send(self, event: Mapping[str, Any]) -> None:
        """Deliver one event; return when it is safe with the receiver."""


def event_of(row: AnyRow, source: str) -> dict[str, Any] | None:
    """The CloudEvent of a line of the timeline, in the JSON format; None for a line that is no event.

    Specification: https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/spec.md
    """
    name = _name_of(row)
    if name is None:
        return None
    moment = datetime.fromtimestamp(row.at, UTC).isoformat(timespec="milliseconds")
    return {
        "specversion": "1.0",
        "id": str(row.id),
        "source": source,
        "type": PREFIX + name,
        "subject": row.incident_id,
        "time": moment.replace("+00:00", "Z"),
        "datacontenttype": "application/json",
        "data": {
            "incident": row.incident_id,
            "service": row.service,
            "severity": row.severity,
            "title": row.title,
            "message": row.message,
            "details": row.data,
        },
    }


def _name_of(row: AnyRow) -> str | None:
    """What happened, by the kind of the line and its data."""
    data = row.data or {}
    if row.first:
        return "incident.opened"
    if row.kind == Kind.STATE.value:
        return {"resolved": "incident.resolved", "closed": "incident.closed"}.get(data.get("to", ""))
    if row.kind == Kind.ACTION.value:
        return "action.finished" if "status" in data else "action.announced"
    if row.kind == Kind.ESCALATION.value:
        return "incident.escalated" if "level" in data else None
    return {
        Kind.DIAGNOSIS.value: "incident.diagnosed",
        Kind.GUARDRAIL.value: "action.refused",
        Kind.VERIFICATION.value: "incident.verified",
    }.get(row.kind)


class HttpSink:
    """POST of each event in structured mode; any 2xx is safe with the receiver."""

    def __init__(self, settings: EventSettings) -> None:
        self._settings = settings
        self._http = outbound.client_for(settings, timeout=settings.timeout)

    def send(self, event: Mapping[str, Any]) -> None:
        """Deliver one. Raises EventRefused, httpx.HTTPError, SecretUnusable."""
        headers = {"Content-Type": CONTENT_TYPE, **bearer_headers(self._settings.bearer_token_file)}
        answer = outbound.answer_to(
            self._http, "POST", self._settings.url, content=_json(event), headers=headers
        )
        if answer.is_client_error and answer.status_code not in RETRIED:
            raise EventRefused(f"{self._settings.url} refused it with {answer.status_code}")
        if not answer.is_success:
            raise httpx.HTTPStatusError(
                f"{self._settings.url} answered {answer.status_code}", request=answer.request, response=answer
            )

    def close(self) -> None:
        """Close the connections."""
        self._http.close()


def _json(event: Mapping[str, Any]) -> bytes:
    return json.dumps(event, ensure_ascii=False).encode("utf-8", "replace")


class SinkOfPlugin:
    """The sink of a plugin or of the host: bounded in time."""

    def __init__(self, who: str, send: Callable[[Mapping[str, Any]], Any]) -> None:
        self._who, self._send = who, send

    def send(self, event: Mapping[str, Any]) -> None:
        """Deliver one. Raises EventRefused, Misbehaved."""
        call(self._who, lambda: self._send(event), within=LONGEST_CALL, passes=(EventRefused,))


class Telling:
    """Tells one receiver, in a thread of its own: a slow one must not hold up another.

    Args:
        context: of the fabric whose timeline is told.
        name: of the receiver; its cursor in the store is kept under it.
        sink: the receiver.
        durable: keep the cursor in the store; else tell what happens from the start of the thread on.
    """

    def __init__(self, context: Context, name: str, sink: EventSink, *, durable: bool = True) -> None:
        self._context, self._name, self._sink, self._durable = context, name, sink, durable
        self._source = context.settings.events_source
        self._counter = context.metrics.events
        for outcome in ("delivered", "refused", "failed"):
            self._counter.labels(name, outcome)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"events to {name}", daemon=True)
        self._cursor: int | None = None

    def start(self) -> None:
        """Begin; where nothing was ever told, with what happens from now on. Raises StoreUnavailable."""
        now = self._context.clock()

        def write(connection: Connection) -> int:
            last = event_statements.last_timeline_id(connection)
            return event_statements.begin_cursor(connection, self._name, last, now) if self._durable else last

        self._cursor = self._context.store.write(write)
        self._thread.start()

    def stop(self) -> None:
        """Stop after the event in hand; the rest is told after the next start."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join()
        close = getattr(self._sink, "close", None)
        if close is not None:
            close()

    def _run(self) -> None:
        pause, waiting_since = FIRST_PAUSE, None
        while not self._stopping.is_set():
            try:
                if not self._my_turn:
                    self._cursor = None  # somebody else tells; ask again where that one has got to
                    self._stopping.wait(1.0)
                    continue
                starved = waiting_since is not None and time.monotonic() - waiting_since > STARVED
                rows = self._read(wait=starved)
                if rows is None:
                    waiting_since = waiting_since or time.monotonic()
                    self._stopping.wait(0.02)
                    continue
                waiting_since = None
                self._tell(rows)
                pause = FIRST_PAUSE
                if len(rows) < BATCH:
                    self._stopping.wait(POLL)
            except StoreUnavailable as error:
                log.error("events_not_read", receiver=self._name, error=str(error))
                self._stopping.wait(FIRST_PAUSE)
            except Exception as error:  # noqa: BLE001 - of a receiver, which may be anybody's code
                self._counter.labels(self._name, "failed").inc()
                log.warning("event_not_delivered", receiver=self._name, error=str(error), again_in=pause)
                self._stopping.wait(pause)
                pause = min(2 * pause, LONGEST_PAUSE)

    @property
    def _my_turn(self) -> bool:
        """Whether this replica tells; asked before each event, for one that was frozen is overtaken."""
        return not self._durable or self._context.leases.leader

    def _read(self, *, wait: bool) -> list[AnyRow] | None:
        """The next lines; None when somebody is writing one right now, whose number may be lower."""

        def read(connection: Connection) -> list[AnyRow] | None:
            if not event_statements.nobody_writes(connection, wait=wait):
                return None
            if self._cursor is None:
                self._cursor = event_statements.cursor(connection, self._name)
            return list(event_statements.timeline_after(connection, self._cursor, BATCH))

        store = self._context.store
        # A shared store's snapshot could be older than the lock; there a plain transaction reads.
        return store.write(read) if store.shared else store.read(read)

    def _tell(self, rows: list[AnyRow]) -> None:
        told, noted_at = self._cursor, time.monotonic()
        try:
            for row in rows:
                if self._stopping.is_set() or not self._my_turn:
                    return
                event = event_of(row, self._source)
                if event is not None:
                    try:
                        self._sink.send(event)
                        self._counter.labels(self._name, "delivered").inc()
                    except EventRefused as error:
                        self._counter.labels(self._name, "refused").inc()
                        log.error("event_refused", receiver=self._name, event_id=row.id, error=str(error))
                told = row.id
                if time.monotonic() - noted_at >= NOTED_EVERY:
                    self._note(told)
                    noted_at = time.monotonic()
        finally:
            self._note(told)

    def _note(self, told: int | None) -> None:
        if told is None or told == self._cursor:
            return
        if self._durable:
            now = self._context.clock()
            self._context.store.write(
                lambda connection: event_statements.advance_cursor(connection, self._name, told, now)
            )
        self._cursor = told


def tellings(context: Context) -> list[Telling]:
    """One for each receiver that the configuration names. Raises ConfigurationError."""
    settings = context.settings
    found: list[Telling] = []
    if settings.events is not None:
        found.append(Telling(context, "http", HttpSink(settings.events)))
    for name, options in settings.plugins.event_sinks.items():
        sink = make("event_sinks", name, settings, options, within=LONGEST_CALL)
        found.append(Telling(context, name, SinkOfPlugin(f"plugin {name}", sink.send)))
    return found
