"""Calls what is to be called: the outbox of escalation.

Who has to be told what is a row (`escalation.calls`). Any replica claims what is due under a short lease,
sends it, and commits what became of it under the epoch of its claim. A replica that dies in between is
followed by another one within seconds, which sends the same message under the same key: at least once to a
channel, and once in effect where the receiver knows the key.

Several calls to one contact become one message when they come together, and a contact hears no more than so
many messages in a window: what waits is told in the last of them and follows as one.

Each channel has senders of its own: one that hangs, or has much to tell, keeps no other from calling.
"""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import structlog
from sqlalchemy import Connection

from self_healing_fabric.errors import StoreUnavailable, UnknownIncident
from self_healing_fabric.escalation import levels
from self_healing_fabric.escalation.calls import Kind, Status, call_of, row_again
from self_healing_fabric.escalation.channels import CallFailed, Channel, Receipt
from self_healing_fabric.escalation.messages import Message, compose
from self_healing_fabric.incidents import correlation, timeline
from self_healing_fabric.incidents.lifecycle import ENDED, Rise, State
from self_healing_fabric.incidents.story import story_of
from self_healing_fabric.incidents.timeline import Entry
from self_healing_fabric.orchestration import answers, level_timers
from self_healing_fabric.orchestration.approval_links import approval_links
from self_healing_fabric.orchestration.context import Context
from self_healing_fabric.orchestration.leases import LEFT_TO_OTHERS
from self_healing_fabric.settings import LOG
from self_healing_fabric.store import call_statements, statements
from self_healing_fabric.store.statements import AnyRow
from self_healing_fabric.threads import start_all

log = structlog.get_logger()

POLL = 0.5  # seconds between two looks, at most
LEAST_PAUSE = 0.02  # seconds
LEASE = 2.0  # seconds; a dead replica's call is sent by another one after at most so long
SENDERS = 4  # messages that one replica sends at a time over one channel
AT_ONCE = 100  # calls that one claim looks at
BACKOFF, MOST_BACKOFF = 1.0, 30.0  # seconds: longest wait after the first try, which doubles; at most
PERSONAL = ("guardian", "apprise")  # kinds of channels that reach one contact and nobody else
NEAR = 15.0  # seconds; a moment nearer than that is past when the message is read
LONGEST_SEND = 120.0  # seconds; what takes longer hangs, and another replica may try


@dataclass(frozen=True)
class Batch:
    """Claimed calls that one message carries."""

    key: str
    rows: tuple[AnyRow, ...]
    note: str | None = None


@dataclass(frozen=True)
class Sending:
    """A message on its way, and since when, on the monotonic clock."""

    channel: str
    since: float


class Caller:
    """Runs from `start` to `stop`; `look` and `send` are its two halves, for whoever drives it by hand."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._stopping = threading.Event()
        self._awake = threading.Event()
        self._threads = SENDERS * len(context.channels)
        self._senders = ThreadPoolExecutor(self._threads, thread_name_prefix="call")
        self._sending: dict[str, Sending] = {}  # by the message
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="caller", daemon=True)
        self._away = False
        self._pause = POLL  # until the next look

    def start(self) -> None:
        """Take up what the last process left, then run in the background.

        Raises:
            RuntimeError: the system allows not as many threads.
        """
        start_all(self._senders, self._threads)
        self._thread.start()

    def stop(self) -> None:
        """Begin nothing more and wait for what is being sent."""
        self._stopping.set()
        self._awake.set()
        if self._thread.ident is not None:
            self._thread.join()
        self._senders.shutdown(wait=True)

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._awake.clear()
            self._pause = POLL
            try:
                self._renew()
                self._begin()
                self._away = False
            except StoreUnavailable as error:
                if not self._away:
                    log.error("calls_wait_for_the_store", error=str(error))
                self._away = True
            except Exception:
                log.exception("caller_failed")
            self._awake.wait(self._pause)

    def _begin(self) -> None:
        for batch in self.look():
            with self._lock:
                self._sending[batch.key] = Sending(batch.rows[0].channel, time.monotonic())
            self._senders.submit(self._send, batch)

    def look(self) -> list[Batch]:
        """Raise the levels that are due, tell of ends, and claim what is to be sent; raises StoreUnavailable.

        Where nothing is due, that costs one read.
        """
        context = self._context
        now = context.clock()
        with self._lock:
            busy = Counter(each.channel for each in self._sending.values())

        def read(connection: Connection) -> tuple[float | None, float | None, bool]:
            return (
                call_statements.next_level_due(connection, now),
                call_statements.next_due_call(connection, now, _full(busy)),
                bool(call_statements.incidents_ended_untold(connection, 1)),
            )

        level, call, ended = context.store.read(read)
        risen = level is not None and level <= now
        if risen:
            level_timers.run(context)
        if ended:
            self.tell_of_ends()
        due = min((each for each in (level, call) if each is not None), default=now + POLL)
        # What has just been written down is due in a moment: look when it is, not half a second later.
        self._pause = max(LEAST_PAUSE, min(due - now, POLL))
        if not (risen or ended or due <= now):
            return []
        claimed = self.claim(busy)
        if not claimed:  # what is due is another replica's
            self._pause = POLL
        return claimed

    def _renew(self) -> None:
        with self._lock:
            now = time.monotonic()
            mine = [key for key, each in self._sending.items() if now - each.since < LONGEST_SEND]
        if mine:
            owner, until = self._context.leases.owner, self._context.clock() + LEASE
            self._context.store.write(
                lambda connection: call_statements.renew_calls(connection, mine, owner=owner, until=until)
            )

    def tell_of_ends(self) -> None:
        """Those who were called hear that it is over; who was not reached yet need not be."""
        context, now = self._context, self._context.clock()

        def write(connection: Connection) -> None:
            statements.serialize(connection, "calls")
            for incident_id in call_statements.incidents_ended_untold(connection, AT_ONCE):
                self._tell_of_end(connection, incident_id, now)

        context.store.write(write)

    def _tell_of_end(self, connection: Connection, incident_id: str, now: float) -> None:
        incident = statements.incident(connection, incident_id)
        reason = _how_it_ended(incident)
        told: dict[Any, tuple[AnyRow, Mapping[str, Any]]] = {}
        for row in call_statements.calls_of(connection, incident_id):
            if row.ended_at is not None:
                continue
            arrived = row.status == Status.SENT.value or (row.attempts > 0 or row.lease_until is not None)
            kept = Status.SENT if row.status == Status.SENT.value else Status.WITHDRAWN
            if row.status == Status.FAILED.value:
                kept = Status.FAILED
            call_statements.end_calls(connection, [row.id], {"status": kept.value, "ended_at": now})
            channel = self._context.channels.get(row.channel)
            if not arrived or channel is None:
                continue
            if channel.alive_for:  # what is kept alive is ended one by one
                told[row.id] = (row, row.progress)
            else:  # people hear once of an incident
                told[row.contact if row.channel != LOG else None, row.channel] = (row, {})
        settings = self._context.settings.escalation
        ends = [
            row_again(row, settings, kind=Kind.ENDED, reason=reason, now=now, progress=progress)
            for row, progress in told.values()
        ]
        call_statements.insert_calls(connection, ends)

    def claim(self, busy: Mapping[str, int]) -> list[Batch]:
        """Claim what is due, as messages; `busy` are those on their way, by channel.

        Raises StoreUnavailable.
        """
        context, now = self._context, self._context.clock()

        def write(connection: Connection) -> list[Batch]:
            statements.serialize(connection, "calls")  # what a contact has heard is counted, then used up
            found: list[Batch] = []
            seen: set[str] = set()
            sending = Counter(busy)
            for row in call_statements.due_calls(connection, now, AT_ONCE, _full(busy)):
                if row.id in seen or sending[row.channel] >= SENDERS:
                    continue
                batch = self._batch(connection, row, now)
                seen.update(each.id for each in batch.rows)
                if batch.key:
                    found.append(batch)
                    sending[row.channel] += 1
            return found

        return context.store.write(write)

    def _batch(self, connection: Connection, row: AnyRow, now: float) -> Batch:
        """The message of a due call; one without a key when it waits."""
        channel = self._context.channels.get(row.channel)
        if channel is None and self._context.store.shared and now < row.due_at + LEFT_TO_OTHERS:
            return Batch("", (row,))  # another replica may know it, and this one could only give it up
        if row.message is None and channel is not None and channel.gathers:
            return self._gathered(connection, row, now)
        rows: Sequence[AnyRow] = [row]
        if row.message is not None:  # tried together they may have been heard together, under one key
            rows = call_statements.calls_of_message(connection, row.message)
        if len(self._held_back(connection, rows, now)) == len(rows):
            return Batch("", tuple(rows))
        return self._claimed(connection, rows, row.message or row.id, now)

    def _held_back(self, connection: Connection, rows: Sequence[AnyRow], now: float) -> set[str]:
        """Those of the calls that nobody is to hear now, put off: people have silenced what they are about
        since they were written down, or are at work in a maintenance window.

        Not what a person has decided, what ends, and what is known already and only kept alive.
        """
        settings = self._context.settings
        waiting = [
            row
            for row in rows
            if row.kind == Kind.ESCALATION.value and row.status == Status.WAITING.value and row.channel != LOG
        ]
        if not waiting:
            return set()
        suppressed = call_statements.with_suppressed_alerts(connection, {row.incident_id for row in waiting})
        until: dict[str, float] = {}
        for row in waiting:
            window = settings.guardrails.maintenance_until(row.service, now)
            if row.incident_id in until or (window is None and row.incident_id not in suppressed):
                continue
            incident = statements.incident(connection, row.incident_id)
            if incident is None or correlation.HANDS_OFF in (incident.verification or {}):
                continue
            held_until = levels.held_back(connection, incident, settings, now)
            if held_until is not None:
                until[row.incident_id] = held_until[0]
        held = [row for row in waiting if row.incident_id in until]
        for row in held:
            if row.due_at <= now:
                call_statements.put_off(connection, [row.id], until[row.incident_id])
        return {row.id for row in held}

    def _gathered(self, connection: Connection, row: AnyRow, now: float) -> Batch:
        """Alone, together with others that wait for the same contact, or later."""
        bounds = self._context.settings.escalation.bounds
        waiting = call_statements.gathered_calls(connection, row.channel, row.contact, now)
        held = self._held_back(connection, waiting, now)
        rows = _newest(connection, [each for each in waiting if each.id not in held], now)
        if row.id not in {each.id for each in rows}:
            # The newer one follows in its time, or it is held back, and so are others: none looks again.
            return Batch("", (row, *(each for each in waiting if each.id in held)))
        heard = call_statements.messages_sent(
            connection, row.channel, row.contact, since=now - bounds.per, now=now
        )
        storm = max((each.at for each in heard if each.number > 1), default=None)
        until = None
        if storm is not None and now < storm + bounds.storm_interval:
            until = storm + bounds.storm_interval
        if len(heard) >= bounds.messages:
            until = max(until or now, heard[-bounds.messages].at + bounds.per)
        if until is not None:
            call_statements.put_off(connection, [each.id for each in rows], until)
            return Batch("", tuple(rows))
        last = len(heard) == bounds.messages - 1
        together = len(rows) >= bounds.storm or (last and len(rows) > 1)
        again = now
        if last:
            again = (heard[0].at if heard else now) + bounds.per
        if together:
            again = max(again, now + bounds.storm_interval)
        note = None
        if again > now + NEAR:
            note = f"No more until {_hour(again)}: what comes meanwhile is collected and told then."
        return self._claimed(connection, rows if together else [row], row.id, now, note)

    def _claimed(
        self, connection: Connection, rows: Sequence[AnyRow], key: str, now: float, note: str | None = None
    ) -> Batch:
        claimed = call_statements.claim_calls(
            connection,
            [row.id for row in rows],
            owner=self._context.leases.owner,
            until=now + LEASE,
            message=key,
        )
        return Batch(key, tuple(claimed), note)

    def _send(self, batch: Batch) -> None:
        try:
            self.send(batch)
        except StoreUnavailable as error:
            log.error(
                "call_not_stored", call=batch.key, error=str(error)
            )  # sent again when its lease is over
        except Exception:
            log.exception("call_failed", call=batch.key)
        finally:
            with self._lock:
                self._sending.pop(batch.key, None)
            self._awake.set()

    def send(self, batch: Batch) -> None:
        """Send one message and write down what became of it. Raises StoreUnavailable.

        Who was frozen since the claim looks once more when all is ready: others may have called by then.
        """
        rows, stories = self._wanted(batch)
        if not rows:
            return
        channel = self._context.channels.get(rows[0].channel)
        answers = self._answers(rows, stories)
        message = compose(
            batch.key, [call_of(row) for row in rows], stories, self._context.settings, batch.note, answers
        )
        if not self._context.store.ask(lambda connection: call_statements.still_claimed(connection, rows)):
            log.info("call_overtaken", call=batch.key)
            return
        result = _tried(channel, rows, message)
        if isinstance(result, Receipt):
            self._sent(rows, channel, result, stories[rows[0].incident_id]["asked_for"])
        else:
            self._failed(rows, result)

    def _answers(self, rows: Sequence[AnyRow], stories: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
        """Links that answer what one incident asks, only for who is called by name: a log is read by many."""
        row, channels = rows[0], self._context.settings.escalation.channels
        asks = stories[row.incident_id]["state"] == State.AWAITING_APPROVAL
        if (
            len(rows) > 1
            or not asks
            or row.channel not in channels
            or channels[row.channel].kind not in PERSONAL
        ):
            return {}
        return approval_links(self._context, row.incident_id, f"{row.contact} (level {row.level})")

    def _wanted(self, batch: Batch) -> tuple[list[AnyRow], dict[str, Mapping[str, Any]]]:
        """The calls that are still to be made, with their incidents; the others are withdrawn."""

        def read(connection: Connection) -> dict[str, Mapping[str, Any]]:
            found: dict[str, Mapping[str, Any]] = {}
            for incident_id in {row.incident_id for row in batch.rows}:
                try:
                    found[incident_id] = story_of(connection, incident_id)
                except UnknownIncident:
                    continue
            return found

        stories = self._context.store.read(read)
        gone = {row.id: why for row in batch.rows if (why := _needless(row, stories.get(row.incident_id)))}
        if gone:
            self._withdraw([row for row in batch.rows if row.id in gone], gone)
        return [row for row in batch.rows if row.id not in gone], stories

    def _withdraw(self, rows: Sequence[AnyRow], why: Mapping[str, str]) -> None:
        now = self._context.clock()

        def write(connection: Connection) -> None:
            for row in rows:
                changes: dict[str, Any] = {
                    "status": Status.WITHDRAWN.value,
                    "due_at": None,
                    "error": why[row.id],
                }
                if row.attempts == 0:
                    changes["ended_at"] = now
                _update(connection, row, changes)

        self._context.store.write(write)

    def _sent(
        self, rows: Sequence[AnyRow], channel: Channel | None, receipt: Receipt, asked_for: str | None
    ) -> None:
        context, now = self._context, self._context.clock()
        alive_for = channel.alive_for if channel is not None else None

        def write(connection: Connection) -> tuple[list[AnyRow], list[answers.Counted]]:
            ours = []
            for row in rows:
                again = alive_for if row.kind == Kind.ESCALATION.value else None
                changes = {
                    "status": Status.SENT.value,
                    "attempts": row.attempts + 1,
                    "sent_at": row.sent_at or now,
                    "due_at": None if again is None else now + again,
                    "progress": dict(receipt.progress),
                    "error": None,
                }
                if receipt.answer is not None:
                    changes["answer"] = dict(receipt.answer)
                if not _update(connection, row, changes):
                    continue
                ours.append(row)
                if row.sent_at is None and row.channel != LOG:
                    told = Entry(timeline.Kind.NOTE, _told(row), {"call": row.id, "channel": row.channel})
                    timeline.append(connection, row.incident_id, [told], now)
            return ours, answers.take(connection, context, ours, receipt.answer, asked_for)

        ours, counted = context.store.write(write)
        answers.count(context, counted)
        for row in ours:
            if row.sent_at is None:
                self._count(row, "sent")

    def _failed(self, rows: Sequence[AnyRow], failure: CallFailed) -> None:
        """Later again, or never; when nobody was reached, the next level is called."""
        context, now = self._context, self._context.clock()

        def write(connection: Connection) -> set[tuple[str, int]]:
            unreached: set[tuple[str, int]] = set()
            for row in rows:
                changes = _after_failure(row, failure, now)
                if not _update(connection, row, changes):
                    continue
                given_up = row.deadline_at is not None and changes["deadline_at"] is None
                if given_up and row.kind == Kind.ESCALATION.value and row.channel != LOG:
                    told = Entry(
                        timeline.Kind.NOTE, _not_told(row, failure), {"call": row.id, "channel": row.channel}
                    )
                    timeline.append(connection, row.incident_id, [told], now)
                    if _nobody_reached(call_statements.calls_of(connection, row.incident_id), row.level):
                        self._call_further(connection, row, now)
                        unreached.add((row.incident_id, row.level))
            return unreached

        unreached = context.store.write(write)
        for row in rows:
            self._count(row, "failed")
            log.warning(
                "call_not_taken", call=row.id, channel=row.channel, contact=row.contact, error=str(failure)
            )
        for incident_id, level in unreached:
            context.metrics.unreached.labels(str(level)).inc()
            log.error("nobody_reached", incident=incident_id, level=level)

    def _call_further(self, connection: Connection, row: AnyRow, now: float) -> None:
        incident = statements.incident(connection, row.incident_id, lock=True)
        if incident is None or incident.acknowledged_by or incident.level != row.level:
            return
        if incident.closed_at is not None or incident.state == State.RESOLVED.value:
            return
        reason = f"nobody of level {row.level} could be reached"
        risen = levels.rise(connection, row.incident_id, Rise(reason), self._context.settings, now)
        timeline.append(connection, row.incident_id, risen.entries, now)

    def _count(self, row: AnyRow, outcome: str) -> None:
        self._context.metrics.calls.labels(str(row.level), row.channel, outcome).inc()


def _full(busy: Mapping[str, int]) -> list[str]:
    """The channels over which no more messages can be sent now."""
    return [channel for channel, messages in busy.items() if messages >= SENDERS]


def _newest(connection: Connection, rows: Sequence[AnyRow], now: float) -> list[AnyRow]:
    """Of what waits to be told of one incident only the last says what is so now; the rest is withdrawn."""
    last = {(row.incident_id, row.kind): row.id for row in rows}
    kept = [row for row in rows if last[row.incident_id, row.kind] == row.id]
    if len(kept) < len(rows):
        outdated = {row.id for row in rows} - set(last.values())
        why = {"status": Status.WITHDRAWN.value, "error": "a later call tells of it", "ended_at": now}
        call_statements.end_calls(connection, outdated, why)
    return kept


def _update(connection: Connection, row: AnyRow, changes: Mapping[str, Any]) -> bool:
    """Write down what became of a call that was claimed, and give its lease back.

    False for one that is ours no more, because its incident has ended or another replica took it over: what
    is known of the others of the same message is written down all the same, or they would be told again.
    """
    free = {"lease_owner": None, "lease_until": None}
    ours = call_statements.update_claimed_call(connection, row.id, row.epoch, {**changes, **free})
    if not ours:
        log.info("call_overtaken", call=row.id)
    return ours


def _tried(channel: Channel | None, rows: Sequence[AnyRow], message: Message) -> Receipt | CallFailed:
    if channel is None:
        return CallFailed(f"no channel is called {rows[0].channel} any more", final=True)
    try:
        return channel.send(message, rows[0].progress)
    except CallFailed as failure:
        return failure
    except Exception as error:
        log.exception("channel_failed", channel=rows[0].channel)
        return CallFailed(f"the channel itself failed: {type(error).__name__}")


def _after_failure(row: AnyRow, failure: CallFailed, now: float) -> dict[str, Any]:
    """Later again until the deadline; at the last level, above which is nobody, for ever.

    `deadline_at` is None once it is over. Exponential backoff with full jitter, as `retry`.
    """
    attempts = row.attempts + 1
    pause = random.uniform(BACKOFF / 2, min(MOST_BACKOFF, BACKOFF * 2**attempts))  # noqa: S311 - no secret
    common = {
        "attempts": attempts,
        "error": str(failure)[: timeline.MAX_MESSAGE],
        "progress": row.progress if failure.progress is None else failure.progress,
    }
    if row.sent_at is not None:  # it is known, and was only to be kept alive
        return {**common, "due_at": now + pause, "deadline_at": row.deadline_at}
    over = row.deadline_at is None or failure.final or now + pause >= row.deadline_at
    last = row.kind == Kind.ESCALATION.value and row.level == levels.LAST_LEVEL
    if not over:
        return {**common, "due_at": now + pause, "deadline_at": row.deadline_at}
    if failure.partly:
        return {
            **common,
            "status": Status.SENT.value,
            "sent_at": now,
            "due_at": None,
            "deadline_at": row.deadline_at,
        }
    if last:
        return {**common, "due_at": now + MOST_BACKOFF, "deadline_at": None}
    return {**common, "status": Status.FAILED.value, "due_at": None, "deadline_at": None}


def _needless(row: AnyRow, story: Mapping[str, Any] | None) -> str | None:
    """Why a call need not be made any more."""
    if story is None:
        return "its incident is gone"
    if row.kind == Kind.ENDED.value or row.status == Status.SENT.value:
        return None
    if story["state"] in ENDED:
        return "it was over before"
    if story["acknowledged_by"] and row.channel != LOG:
        return f"{story['acknowledged_by']} had acknowledged before"
    return None


def _nobody_reached(rows: Collection[AnyRow], level: int) -> bool:
    """Whether everything that was tried on this level was given up; the log is nobody."""
    of_level = [
        row
        for row in rows
        if row.level == level
        and row.kind == Kind.ESCALATION.value
        and row.channel != LOG
        and row.ended_at is None
    ]
    return all(row.sent_at is None and row.deadline_at is None for row in of_level)


def _told(row: AnyRow) -> str:
    what, end = ("called", "") if row.kind == Kind.ESCALATION.value else ("told", " that it is over")
    tries = f", at try {row.attempts + 1}" if row.attempts else ""
    return f"{row.contact} was {what} over {row.channel} (level {row.level}){end}{tries}."


def _not_told(row: AnyRow, failure: CallFailed) -> str:
    return f"{row.contact} could not be called over {row.channel} (level {row.level}): {failure}."


def _how_it_ended(incident: AnyRow | None) -> str:
    if incident is None:
        return "It is over"
    outcome = {
        "healed": "Healed by the fabric, and proved",
        "recovered": "Recovered, and proved",
        "closed_by_person": "Closed by a person",
        "merged": f"It is a symptom of incident {incident.merged_into}, which goes on",
    }.get(incident.outcome or "")
    return outcome or f"It is {incident.state}"


def _hour(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%H:%M:%S} UTC"
