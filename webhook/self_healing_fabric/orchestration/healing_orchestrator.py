"""The loop: claim what is due, advance each by one step on a worker, commit, sleep until the next timer.

No thread sleeps on behalf of an incident; waiting is a `due_at` in the store. So ten thousand waiting
incidents cost nothing, and a restart continues all of them. A step that fails unexpectedly harms only its own
incident: it is tried again later, and after a few times it goes to people.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import replace

import structlog
from sqlalchemy import Connection

from self_healing_fabric.errors import LeaseLost, StoreUnavailable
from self_healing_fabric.escalation import levels
from self_healing_fabric.incidents import correlation, timeline
from self_healing_fabric.incidents.lifecycle import State, Transition
from self_healing_fabric.incidents.models import Incident
from self_healing_fabric.incidents.notifications import work_in, work_in_all
from self_healing_fabric.incidents.timeline import Entry, Kind
from self_healing_fabric.orchestration import journal
from self_healing_fabric.orchestration.context import Context
from self_healing_fabric.orchestration.escalation_manager import hand_to_people
from self_healing_fabric.orchestration.leases import First
from self_healing_fabric.orchestration.reconciliation import Reconciliation
from self_healing_fabric.orchestration.steps import Step, advance
from self_healing_fabric.recovery.outcomes import Outcome, Status
from self_healing_fabric.store import statements
from self_healing_fabric.telemetry import UNKNOWN_SERVICE
from self_healing_fabric.threads import start_all

log = structlog.get_logger()

LONGEST_SLEEP = 1.0  # seconds without a look at the store, should a wake-up get lost
LOST_RACE = 0.1  # seconds to wait when another one has claimed what was due
CROWD = 8  # notifications that wait for their answers at once are a flood; a slow database makes a few wait
FLOOD_LASTS = 0.05  # seconds after there was a crowd last
LONGEST_YIELD = 1.0  # seconds for which nothing is begun because of a flood or a scrape
YIELD_POLL = 0.02  # seconds between two looks at whether it still lasts
MAX_FAULTS = 3  # unexpected errors in a row of one incident before people are called
FAULT_PAUSE = 5.0  # seconds before a step that failed unexpectedly is tried again
INFORMING_RETRY = 1.0  # seconds until the next try to learn what people have silenced
STORE_RETRY = 1.0  # seconds between two tries to write the end of an action
STORE_PATIENCE = 60.0  # seconds for which the end of an action is kept in hand while the store is away


class HealingOrchestrator:
    """Runs from `start` to `stop`; `wake` makes it look at once."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._leases = context.leases
        workers = context.settings.workers
        # Alone, claim for each worker one ahead, many at once; beside others, only what can begin now.
        self._most = workers if context.store.shared else 2 * workers
        self._least = 1 if context.store.shared else workers
        self._stopping = threading.Event()
        self._awake = threading.Event()
        self._brought = threading.Event()  # something was stored that is to be taken in
        self._full = False  # the loop waits until somebody has finished
        self._arriving = 0  # notifications that wait for their answers
        self._scrapes = 0  # that are being answered
        self._arrivals = threading.Lock()
        self._crowded_at = -math.inf  # on the monotonic clock
        self._workers = ThreadPoolExecutor(workers, thread_name_prefix="step")
        self._thread = threading.Thread(target=self._run, name="orchestrator", daemon=True)
        self.reconciliation = Reconciliation(context)
        self.last_look: tuple[float, float] | None = None  # when the loop last got through, and its seconds
        self._reconciler = ThreadPoolExecutor(1, thread_name_prefix="reconciliation")
        self._reconciling: Future[None] | None = None
        self._next_reconcile = 0.0  # on the monotonic clock: wall-clock jumps must not stop the comparison

    def start(self) -> None:
        """Take up what the last process left, then run in the background.

        Raises:
            RuntimeError: the system allows not as many threads.
        """
        start_all(self._workers, self._context.settings.workers)
        start_all(self._reconciler, 1)
        self._leases.start()
        self._thread.start()

    def wake(self) -> None:
        """There may be something to do: look now."""
        self._awake.set()

    def brought(self) -> None:
        """A notification was stored: take it in now, without asking the store whether there is one."""
        self._brought.set()
        self.wake()

    def reconcile_soon(self) -> None:
        """The servers know more than we were told: compare now and not in 10 s."""
        self._next_reconcile = 0.0
        self.wake()

    @contextmanager
    def arrival(self) -> Iterator[None]:
        """While a notification is read and stored."""
        with self._arrivals:
            self._arriving += 1
            if self._arriving >= CROWD:
                self.crowd()
        try:
            yield
        finally:
            with self._arrivals:
                self._arriving -= 1

    def crowd(self) -> None:
        """More is on its way than is read at once: a flood, before it has arrived."""
        self._crowded_at = time.monotonic()

    @contextmanager
    def scrape(self) -> Iterator[None]:
        """While all metrics are read and written out; Prometheus gives it up after 10 s."""
        with self._arrivals:
            self._scrapes += 1
        try:
            yield
        finally:
            with self._arrivals:
                self._scrapes -= 1

    def alive(self) -> bool:
        """Whether the loop runs."""
        return self._thread.is_alive()

    def stop(self) -> None:
        """Claim nothing more, wait for the steps in hand, and give back what was claimed and not begun."""
        self._stopping.set()
        self.wake()
        if self._thread.ident is not None:
            self._thread.join()
        self._workers.shutdown(wait=True, cancel_futures=True)
        self._reconciler.shutdown(wait=True, cancel_futures=True)
        self.reconciliation.close()
        self._leases.stop()

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._awake.clear()
            pause, began = LONGEST_SLEEP, time.monotonic()
            try:
                self._reconcile_when_due()
                self._yield_to_answers(began + LONGEST_YIELD)
                self._store_pauses()
                pause = self._look()
                self.last_look = self._context.clock(), time.monotonic() - began
            except StoreUnavailable as error:
                log.error("store_unavailable", error=str(error))
            except Exception:
                log.exception("loop_failed")
            if pause > 0:
                self._awake.wait(pause)

    def _store_pauses(self) -> None:
        """What of the kill switch could not be stored; the loop goes on without, for it reads."""
        with suppress(StoreUnavailable):
            self._context.unstored_pauses.store(self._context.store)

    def _reconcile_when_due(self) -> None:
        now = time.monotonic()
        if now < self._next_reconcile or (self._reconciling and not self._reconciling.done()):
            return
        self._next_reconcile = now + self._context.settings.reconcile_interval
        self._reconciling = self._reconciler.submit(self._reconcile)

    def _reconcile(self) -> None:
        try:
            self._compare()
            self._leases.compared(self._context.settings.reconcile_interval)
        except StoreUnavailable as error:
            log.error("not_reconciled", error=str(error))
        if not self._leases.informed:
            self._next_reconcile = min(self._next_reconcile, time.monotonic() + INFORMING_RETRY)
        self.wake()

    def _compare(self) -> None:
        try:
            self.reconciliation.run()
        except StoreUnavailable:
            raise
        except Exception:  # a defect of ours keeps nothing from being healed, as no server that is away does
            log.exception("reconciliation_failed")

    def _yield_to_answers(self, until: float) -> None:
        """Begin nothing while a flood or a scrape lasts: answers go first, for what is stored waits safely.

        But not for long, `until` on the monotonic clock: a flood that goes on for hours must not keep
        anything from being healed.
        """
        while self._pressed() and time.monotonic() < until and not self._stopping.wait(YIELD_POLL):
            pass

    def _pressed(self) -> bool:
        flooded = self._arriving >= CROWD or time.monotonic() < self._crowded_at + FLOOD_LASTS
        return flooded or self._scrapes > 0

    def _look(self) -> float:
        """Take in what is new and dispatch what is due; return how long to sleep, at most."""
        self._full = True  # before it is known: who makes room meanwhile must wake the loop
        self._full = not (self._has_room() and self._leases.informed)
        now, due = self._context.clock(), None
        new = self._brought.is_set()
        self._brought.clear()  # before it is taken in: what comes from here on is looked for again
        if not new:
            new, due = self._context.store.ask(lambda connection: statements.to_do(connection, now))
        if new:
            if self._full:
                self.take_in()
            else:
                self._submit(self.take_in_and_claim(self._room()))
            return 0.0  # there may be more than one batch takes
        if self._full or due is None:
            return LONGEST_SLEEP
        return self._dispatch() if due <= now else min(due - now, LONGEST_SLEEP)

    def _room(self) -> int:
        """How many more may be claimed. Only the loop claims, so that it grows until it does."""
        return self._most - len(self._leases)

    def _has_room(self) -> bool:
        return self._room() >= self._least

    def take_in_and_claim(self, limit: int) -> list[Incident]:
        """Both in one transaction: what is new is begun with at once, without a second commit."""
        done: list[correlation.Opened] = []  # of the last time, should it run twice

        def take_in(connection: Connection) -> None:
            done[:] = [self._taken_in(connection, work_in_all)]

        try:
            claimed, first_steps = self._claim_and_take_up(limit, take_in)
        except StoreUnavailable:
            raise
        except Exception:
            # What cannot be taken up, or worked in, must not keep the others from being taken in.
            log.exception("taking_in_failed")
            self.take_in()
            return self.claim(limit)
        self._tell(done[0])
        self._announce_all(first_steps)
        return claimed

    def take_in(self) -> None:
        """Work in what came: notifications become alerts, alerts become part of incidents."""
        self._tell(self._context.store.write(lambda connection: self._taken_in(connection, work_in)))

    def _taken_in(self, connection: Connection, work: Callable[[Connection], None]) -> correlation.Opened:
        context = self._context
        # Before the first alert is touched: replicas that work repetitions in would lock each other out.
        statements.serialize(connection, "correlation")
        work(connection)
        window = context.settings.correlation.window
        now = context.clock()
        done = correlation.open_incidents(connection, context.graph.topology, window, now)
        for incident_id, reason in done.more.items():
            called = levels.call_again(connection, incident_id, reason, context.settings, now)
            timeline.append(connection, incident_id, called, now)
        return done

    def _tell(self, done: correlation.Opened) -> None:
        """Tell the log and the metrics what was taken in."""
        context = self._context
        for service in done.services:
            context.metrics.opened.labels(service or UNKNOWN_SERVICE).inc()
            log.info("incident_opened", service=service)
        for service in done.merged:
            context.metrics.merged.labels(service).inc()
            log.info("incident_merged", service=service)

    def _dispatch(self) -> float:
        """Hand what is due to the workers; return how long to sleep."""
        claimed = self.claim(self._room())
        self._submit(claimed)
        return 0.0 if claimed else LOST_RACE

    def _submit(self, claimed: list[Incident]) -> None:
        for incident in claimed:
            self._workers.submit(self._work, incident)

    def claim(self, limit: int) -> list[Incident]:
        """Claim what is due. What is new and ours is taken up with the claim: nobody is asked for that."""
        try:
            claimed, first_steps = self._claim_and_take_up(limit)
        except StoreUnavailable:
            raise
        except Exception:
            # One that cannot be taken up must keep no other waiting: each tries it alone, as its own step.
            log.exception("taking_up_failed")
            return self._leases.claim(limit)
        self._announce_all(first_steps)
        return claimed

    def _claim_and_take_up(
        self, limit: int, first: First | None = None
    ) -> tuple[list[Incident], list[tuple[Incident, Step]]]:
        """What was claimed, as it is from then on; and of what was new, as it was, the first steps."""
        first_steps: list[tuple[Incident, Step]] = []

        def take_up(connection: Connection, claimed: list[Incident]) -> list[Incident]:
            services = self._context.settings.services
            new = [each for each in claimed if each.state is State.DETECTED and each.is_of(services)]
            first_steps[:] = [(each, self.decide(each)) for each in new]
            now = self._context.clock()
            changed = journal.take_up(
                self._context, connection, [(each, step.transition) for each, step in first_steps], now
            )
            return [changed.get(each.id, each) for each in claimed]

        return self._leases.claim(limit, take_up, first), first_steps

    def _announce_all(self, first_steps: Sequence[tuple[Incident, Step]]) -> None:
        for incident, step in first_steps:
            with _told_of(incident):
                self._announce(incident, step)

    def _work(self, incident: Incident) -> None:
        try:
            with _told_of(incident):
                self.work(incident, informed=lambda: self._leases.informed)
        except Exception:
            log.exception("work_failed")
        finally:
            if not self._stopping.is_set():  # `stop` gives back what was not begun
                self._leases.drop(incident)
            if self._full and self._has_room():
                self.wake()

    def work(self, incident: Incident, *, informed: Callable[[], bool] = lambda: True) -> None:
        """Advance a claimed incident until it waits for something, is no longer ours, or what people have
        silenced is not known any more."""
        current: Incident | None = incident
        patient_until = time.monotonic() + LONGEST_YIELD  # for all of its steps together
        while current is not None:
            self._yield_to_answers(patient_until)
            if self._stopping.is_set():
                return
            goes_on = self._leases.holds(current) and informed()
            current = self.advance(current) if goes_on else None
        self._leases.drop(incident)

    def advance(self, incident: Incident) -> Incident | None:
        """Do one step of a claimed incident and commit it; whatever goes wrong stays within the incident.

        Returns the incident when its next step follows at once, else None: then its lease is given back.
        """
        try:
            step = self.decide(incident)
            hold = step.transition.due_in == 0 and not self._stopping.is_set()
            following = self._commit(incident, step, hold=hold)
        except LeaseLost:
            # A person, a new alert or another replica changed the incident: its next step starts from there.
            log.info("overtaken")
            self._let_go(incident, 0.0)
        except StoreUnavailable as error:
            log.error("not_stored", error=str(error))  # the lease runs out, then the step is done again
        except Exception as error:
            log.exception("step_failed", state=incident.state)
            self._note_fault(incident, error)
        else:
            self._announce(incident, step)
            if hold:
                return following
            self._let_go(incident, step.transition.due_in)
        return None

    def decide(self, incident: Incident) -> Step:
        """What the incident's state asks for; nothing is written."""
        return advance(incident, self._context)

    def _let_go(self, incident: Incident, due_in: float | None) -> None:
        """Its next step may be anybody's. A timer that lies further ahead the loop finds by itself."""
        self._leases.drop(incident)
        if due_in is not None and due_in < LONGEST_SLEEP:
            self.wake()

    def _commit(self, incident: Incident, step: Step, *, hold: bool) -> Incident:
        """Commit a step. The end of an action is worth waiting for: only we know it for certain."""
        patient_until = time.monotonic() + (STORE_PATIENCE if step.finished is not None else 0.0)
        while True:
            try:
                return journal.commit(
                    self._context,
                    incident,
                    step.transition,
                    finished=step.finished,
                    verdict=step.verdict,
                    learned=step.learned,
                    also=step.also,
                    hold=hold,
                )
            except StoreUnavailable as error:
                if time.monotonic() >= patient_until or self._stopping.wait(STORE_RETRY):
                    raise
                log.error("action_not_stored_yet", error=str(error))

    def _note_fault(self, incident: Incident, error: Exception) -> None:
        """Try again later; after too many errors in a row hand over to people."""
        context, faults = self._context, incident.faults + 1
        note = Entry(
            Kind.NOTE, f"Unexpected error ({faults} of {MAX_FAULTS}): {type(error).__name__}: {error}"
        )
        transition = Transition(incident.state, FAULT_PAUSE * faults, (note,))
        if faults >= MAX_FAULTS and incident.state not in (State.RESOLVED, State.ESCALATED):
            reason = f"the fabric itself failed: {error}"
            moved = hand_to_people(context, reason, note, suspected_for=incident.suspected_for)
            transition = replace(moved, due_in=FAULT_PAUSE * faults)
        changed = {**transition.changes, "faults": 0 if transition.state is State.ESCALATED else faults}
        try:
            finished = self._given_up(incident) if transition.state is State.ESCALATED else None
            journal.commit(context, incident, replace(transition, changes=changed), finished=finished)
        except (LeaseLost, StoreUnavailable) as failure:
            log.error("fault_not_noted", error=str(failure))

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
        """Tell the log and the metrics what was committed."""
        metrics, transition = self._context.metrics, step.transition
        ours = incident.is_of(self._context.settings.services)
        service = str(incident.service) if ours else UNKNOWN_SERVICE
        if step.finished is not None and step.strategy is not None:
            acted_on = step.service or service
            metrics.actions.labels(acted_on, step.strategy, step.finished[1].status.value).inc()
        if incident.merged_into is None and "merged_into" in transition.changes:
            metrics.merged.labels(service).inc()
        if transition.state is State.RESOLVED and incident.resolved_at is None:
            metrics.resolved.labels(service, transition.changes["outcome"]).inc()
            metrics.recover_seconds.labels(service).observe(self._context.clock() - incident.opened_at)
        for entry in transition.entries:
            if entry.kind is not Kind.EVIDENCE:
                log.info(entry.kind.value, message=entry.message)
        if transition.state is not incident.state:
            log.info("state", old=incident.state.value, new=transition.state.value)


def _told_of(incident: Incident) -> AbstractContextManager[None]:
    """What is logged meanwhile names the incident."""
    return structlog.contextvars.bound_contextvars(incident=incident.id, service=incident.service)
