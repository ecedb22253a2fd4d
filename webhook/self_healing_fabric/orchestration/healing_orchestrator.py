"""The loop: claim what is due, advance each by one step on a worker, commit, sleep until the next timer.

No thread sleeps on behalf of an incident; waiting is a `due_at` in the store. So ten thousand waiting
incidents cost nothing, and a restart continues all of them. A step that fails unexpectedly harms only its own
incident: it is tried again later, and after a few times it goes to people.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

import structlog

from self_healing_fabric.errors import LeaseLost, StoreUnavailable
from self_healing_fabric.incidents import correlation
from self_healing_fabric.incidents.lifecycle import State, Transition
from self_healing_fabric.incidents.models import Incident, incident_of
from self_healing_fabric.incidents.timeline import Entry, Kind
from self_healing_fabric.orchestration import journal
from self_healing_fabric.orchestration.context import Context
from self_healing_fabric.orchestration.escalation_manager import hand_to_people, send_calls
from self_healing_fabric.orchestration.reconciliation import Reconciliation
from self_healing_fabric.orchestration.steps import Step, advance
from self_healing_fabric.recovery.outcomes import Outcome, Status
from self_healing_fabric.store import statements
from self_healing_fabric.telemetry import UNKNOWN_SERVICE

log = structlog.get_logger()

WORKERS = 8  # steps at a time; they wait for servers, not for the processor
LEASE = 120.0  # seconds; longer than the longest effect (settings.MAX_EFFECT_TIMEOUT) and its queries
LONGEST_SLEEP = 1.0  # seconds without a look at the store, should a wake-up get lost
MAX_FAULTS = 3  # unexpected errors in a row of one incident before people are called
FAULT_PAUSE = 5.0  # seconds before a step that failed unexpectedly is tried again


class HealingOrchestrator:
    """Runs from `start` to `stop`; `wake` makes it look at once."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._owner = f"{socket.gethostname()}/{os.getpid()}"
        self._stopping = threading.Event()
        self._awake = threading.Event()
        self._workers = ThreadPoolExecutor(WORKERS, thread_name_prefix="step")
        self._thread = threading.Thread(target=self._run, name="orchestrator", daemon=True)
        self._busy = threading.Semaphore(WORKERS)
        self._reconciliation = Reconciliation(context)
        self._reconciling: Future[None] | None = None
        self._next_reconcile = 0.0  # on the monotonic clock: wall-clock jumps must not stop the comparison

    def start(self) -> None:
        """Take up what the last process left, then run in the background."""
        self._context.store.write(statements.release_all_leases)
        self._thread.start()

    def wake(self) -> None:
        """There may be something to do: look now."""
        self._awake.set()

    def alive(self) -> bool:
        """Whether the loop runs."""
        return self._thread.is_alive()

    def stop(self) -> None:
        """Claim nothing more and wait for the steps in hand."""
        self._stopping.set()
        self.wake()
        if self._thread.ident is not None:
            self._thread.join()
        self._workers.shutdown(wait=True)
        self._reconciliation.close()

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._awake.clear()
            pause = LONGEST_SLEEP
            try:
                self._reconcile_when_due()
                self._open_incidents()
                pause = self._claim()
            except StoreUnavailable as error:
                log.error("store_unavailable", error=str(error))
            except Exception:
                log.exception("loop_failed")
            if pause > 0:
                self._awake.wait(pause)

    def _reconcile_when_due(self) -> None:
        now = time.monotonic()
        if now < self._next_reconcile or (self._reconciling and not self._reconciling.done()):
            return
        self._next_reconcile = now + self._context.settings.reconcile_interval
        self._reconciling = self._workers.submit(self._reconcile)

    def _reconcile(self) -> None:
        try:
            self._reconciliation.run()
        except Exception:
            log.exception("reconciliation_failed")
        self.wake()

    def _open_incidents(self) -> None:
        context = self._context
        if not context.store.read(lambda connection: statements.unassigned_alerts(connection, 1)):
            return
        services, now = context.settings.services, context.clock()
        opened = context.store.write(lambda connection: correlation.open_incidents(connection, services, now))
        for service in opened:
            context.metrics.opened.labels(service or UNKNOWN_SERVICE).inc()
            log.info("incident_opened", service=service)
        self.wake()  # more may wait than one batch takes

    def _claim(self) -> float:
        """Hand what is due to free workers; return how long to sleep, at most."""
        context, now = self._context, self._context.clock()
        due = context.store.read(statements.next_due)
        if due is None:
            return LONGEST_SLEEP
        if due > now:
            return min(due - now, LONGEST_SLEEP)
        free = self._acquire()
        if free == 0:
            return LONGEST_SLEEP  # a finishing worker wakes the loop
        claimed = 0
        try:
            rows = context.store.write(
                lambda connection: statements.claim_due(
                    connection, owner=self._owner, now=now, lease=LEASE, limit=free
                )
            )
            for row in rows:
                self._workers.submit(self._step, incident_of(row))
                claimed += 1
        finally:
            self._busy.release(free - claimed) if free > claimed else None
        return 0.0

    def _acquire(self) -> int:
        free = 0
        while free < WORKERS and self._busy.acquire(blocking=False):
            free += 1
        return free

    def _step(self, incident: Incident) -> None:
        try:
            with structlog.contextvars.bound_contextvars(incident=incident.id, service=incident.service):
                self.advance(incident)
        finally:
            self._busy.release()
            self.wake()

    def advance(self, incident: Incident) -> None:
        """Do one step of a claimed incident and commit it; whatever goes wrong stays within the incident."""
        try:
            step = advance(incident, self._context)
            journal.commit(
                self._context, incident, step.transition, finished=step.finished, verdict=step.verdict
            )
        except LeaseLost:
            log.info(
                "overtaken"
            )  # a person or a new alert changed the incident: its next step starts from there
        except StoreUnavailable as error:
            log.error("not_stored", error=str(error))  # the lease runs out, then the step is done again
        except Exception as error:
            log.exception("step_failed", state=incident.state)
            self._note_fault(incident, error)
        else:
            self._announce(incident, step)

    def _note_fault(self, incident: Incident, error: Exception) -> None:
        """Try again later; after too many errors in a row hand over to people."""
        context, faults = self._context, incident.faults + 1
        note = Entry(
            Kind.NOTE, f"Unexpected error ({faults} of {MAX_FAULTS}): {type(error).__name__}: {error}"
        )
        transition = Transition(incident.state, FAULT_PAUSE * faults, (note,))
        if faults >= MAX_FAULTS and incident.state not in (State.RESOLVED, State.ESCALATED):
            moved = hand_to_people(incident, context, f"the fabric itself failed: {error}", note)
            transition = replace(moved, due_in=FAULT_PAUSE * faults)
        changed = {**transition.changes, "faults": 0 if transition.state is State.ESCALATED else faults}
        try:
            finished = self._given_up(incident) if transition.state is State.ESCALATED else None
            journal.commit(context, incident, replace(transition, changes=changed), finished=finished)
        except (LeaseLost, StoreUnavailable) as failure:
            log.error("fault_not_noted", error=str(failure))
            return
        send_calls(incident, context, transition)

    def _given_up(self, incident: Incident) -> journal.Finished | None:
        """An action that nobody will follow up any more must not block its target for ever."""
        row = self._context.store.read(
            lambda connection: statements.unfinished_action_of(connection, incident.id)
        )
        if row is None:
            return None
        return row.id, Outcome(
            Status.INDETERMINATE, "the fabric failed before it could learn what became of it"
        )

    def _announce(self, incident: Incident, step: Step) -> None:
        """Tell the log, the metrics and the channels what was committed."""
        metrics, transition = self._context.metrics, step.transition
        service = str(incident.service) if incident.known_service else UNKNOWN_SERVICE
        if step.finished is not None and step.strategy is not None:
            metrics.actions.labels(service, step.strategy, step.finished[1].status.value).inc()
        if transition.state is State.RESOLVED and incident.state is not State.RESOLVED:
            metrics.resolved.labels(service, transition.changes["outcome"]).inc()
            metrics.recover_seconds.labels(service).observe(self._context.clock() - incident.opened_at)
        for entry in transition.entries:
            if entry.kind is not Kind.EVIDENCE:
                log.info(entry.kind.value, message=entry.message)
        if transition.state is not incident.state:
            log.info("state", old=incident.state.value, new=transition.state.value)
        send_calls(incident, self._context, transition)
