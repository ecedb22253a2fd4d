"""Who works on what: the leases of this process, and the leave to begin an effect.

A lease is short, so that what a dead process held is taken over soon, and is prolonged for as long as the
step runs. A process that was frozen, or cut off from the store, cannot prolong: others take its incidents
over, and everything that it still wants to write is refused by the epoch. That does not stop an effect, which
is no write to the store: so every effect asks its permit at the last moment, and a permit is over as soon as
somebody else may have taken over, by a clock that goes on while the process is frozen. Nor does it hold for
what was seen before a lease ran out, though nobody took over: that is as old as the pause was long.
"""

from __future__ import annotations

import math
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Collection, Container
from dataclasses import dataclass, replace

import structlog
from sqlalchemy import Connection

from self_healing_fabric.errors import StoreUnavailable
from self_healing_fabric.incidents.models import Incident, incident_of
from self_healing_fabric.settings import MAX_EFFECT_TIMEOUT
from self_healing_fabric.store import Store, statements

log = structlog.get_logger()

LEASE = 6.0  # seconds; a dead replica's incidents are taken over after at most so long
RENEWAL = 2.0  # seconds between two renewals
LONGEST_STEP = 2 * MAX_EFFECT_TIMEOUT + 60.0  # seconds; what takes longer hangs, and is let go
IN_TURN = 4  # one of so many claimed incidents is the longest due of all, be it only watched; see `claim`
LEFT_TO_OTHERS = 60.0  # seconds, a while for rolling out a configuration; see `Leases`
CLOCK_CHECK = 10.0  # seconds between two comparisons with the store's clock
CLOCK_SPREADS_WITHIN = 2 * CLOCK_CHECK  # seconds until every replica has noticed that the clock was set
LEADER = "reconciliation"  # what one replica does for all
KNOWN_FOR = 20.0  # seconds, and two comparisons at least, for which is known what people have silenced


TakeUp = Callable[[Connection, list[Incident]], list[Incident]]
First = Callable[[Connection], None]


@dataclass(frozen=True)
class _Held:
    epoch: int
    until: float  # on the steady clock
    since: float
    unbroken: float  # since when it has not run out

    def prolonged(self, mark: float) -> _Held:
        return replace(self, until=mark + LEASE, unbroken=self.unbroken if mark < self.until else mark)


def steady() -> float:
    """Seconds on a clock that nobody sets and that goes on while process or machine are suspended."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


class Leases:
    """The incidents that this process has claimed. Safe to share between threads.

    The steady clock (`going_on` in its stead where time does not go by itself, as in a replay) is always read
    before the store's: a process that freezes between the two then believes that its lease ends too early,
    never too late.

    An incident of a service that is not among `services`, those of this process's configuration, is left to
    replicas that know it: who does not know it can only give it up. So it is claimed when nobody has taken it
    for a while.

    Beside its leases a process that `hears` pushed heartbeats notes that it does.
    """

    def __init__(
        self,
        store: Store,
        clock: Callable[[], float],
        going_on: Callable[[], float] | None = None,
        services: Container[str] | None = None,
        *,
        hears: Callable[[], bool] = lambda: False,
    ) -> None:
        self.owner = f"{socket.gethostname()}/{os.getpid()}/{secrets.token_hex(3)}"
        self._store = store
        self._clock = clock
        self._going_on = going_on
        self._services = services
        self._hears = hears
        self._held: dict[str, _Held] = {}
        self._lock = threading.Lock()
        self._leader_until = 0.0
        self._informed_until = -math.inf  # on the steady clock
        self._claims = 0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="leases", daemon=True)

    def steady(self) -> float:
        """The moment on the clock by which leases run out."""
        return steady() if self._going_on is None else self._going_on()

    def __len__(self) -> int:
        return len(self._held)

    def held(self) -> Collection[str]:
        """The ids of the claimed incidents."""
        with self._lock:
            return set(self._held)

    def start(self) -> None:
        """Begin to prolong."""
        if not self._store.shared:
            self._store.write(statements.release_all_leases)
        self._thread.start()

    def stop(self) -> None:
        """Stop prolonging, and give back what is still held, so that others need not wait."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join()
        held = self.held()

        def give_back(connection: Connection) -> None:
            statements.release_leases(connection, self.owner, held)
            statements.release_lease(connection, LEADER, self.owner)

        try:
            self._store.write(give_back)
        except StoreUnavailable as error:
            log.error("leases_not_given_back", error=str(error))  # they run out by themselves
        with self._lock:
            self._held.clear()
            self._leader_until = 0.0

    def claim(self, limit: int, take_up: TakeUp | None = None, first: First | None = None) -> list[Incident]:
        """Claim what is due and nobody works on, the longest due first. Raises StoreUnavailable.

        Args:
            limit: how many at most.
            take_up: is told what was claimed, in the same transaction, and returns it as it is from then on.
            first: is done before, in the same transaction. Who takes in with each claim what comes one by one
                claims what is only watched at every fourth claim only.
        """
        mine = self.held()
        self._claims += 1
        their_turn = self._claims % IN_TURN == 0
        # None is a statement less until what has just come is begun with.
        in_turn = limit // IN_TURN or int(their_turn) if first is None or their_turn else None

        def write(connection: Connection) -> tuple[float, list[Incident]]:
            if first is not None:
                first(connection)
            mark, now = self.steady(), self._clock()  # after what others may have made `first` wait for
            rows = statements.claim_due(
                connection,
                owner=self.owner,
                now=now,
                lease=LEASE,
                limit=limit,
                in_turn=in_turn,
                not_these=mine,
            )
            found = self._without_others(connection, [incident_of(row) for row in rows], now)
            return mark, found if take_up is None else take_up(connection, found)

        mark, claimed = self._store.write(write)
        with self._lock:
            for incident in claimed:
                self._held[incident.id] = _Held(incident.epoch, mark + LEASE, mark, mark)
        return claimed

    def _without_others(self, connection: Connection, claimed: list[Incident], now: float) -> list[Incident]:
        """Give back what other replicas may know and this one does not."""
        if not self._store.shared or self._services is None:
            return claimed
        left = {
            each.id
            for each in claimed
            if each.known_service
            and not each.is_of(self._services)
            and now < (each.due_at or 0.0) + LEFT_TO_OTHERS
        }
        statements.release_leases(connection, self.owner, left)
        return [each for each in claimed if each.id not in left]

    def drop(self, incident: Incident) -> None:
        """The work on it is done, or lost."""
        with self._lock:
            if incident.id in self._held and self._held[incident.id].epoch == incident.epoch:
                del self._held[incident.id]

    def holds(self, incident: Incident, *, since: float = math.inf) -> bool:
        """Whether the incident is still ours: nobody else can have taken it over, now or since a moment on
        the steady clock."""
        with self._lock:
            held = self._held.get(incident.id)
        if held is None or held.epoch != incident.epoch:
            return False
        return held.unbroken <= since and self.steady() < held.until

    def prolonged(self, incident: Incident, mark: float) -> None:
        """The incident's lease was renewed in the store by another write, begun at `mark` (steady clock)."""
        with self._lock:
            held = self._held.get(incident.id)
            if held is not None and held.epoch == incident.epoch:
                self._held[incident.id] = held.prolonged(mark)

    @property
    def leader(self) -> bool:
        """Whether this process does what one replica does for all."""
        return not self._store.shared or self.steady() < self._leader_until

    def lead(self) -> bool:
        """Become, or remain, the leader where nobody else is. Raises StoreUnavailable."""
        if not self._store.shared:
            return True
        mark, now = self.steady(), self._clock()
        won = self._store.write(
            lambda connection: statements.acquire_lease(
                connection, name=LEADER, owner=self.owner, now=now, lease=LEASE
            )
        )
        self._leader_until = mark + LEASE if won else 0.0
        return won

    @property
    def informed(self) -> bool:
        """Whether the servers were asked lately: while nothing ran here, or this process was frozen, people
        may have silenced what failed, and work on it."""
        return self.steady() < self._informed_until

    def compared(self, interval: float) -> None:
        """A comparison with the servers, of which one comes each `interval` seconds, has ended, here or where
        the leader is. Raises StoreUnavailable."""
        mark, now, known_for = self.steady(), self._clock(), max(KNOWN_FOR, 2 * interval)
        if not self._store.shared:
            self._informed_until = mark + known_for
        elif self.leader:
            self._store.write(lambda connection: statements.note_compared(connection, now + known_for))
            self._informed_until = mark + known_for
        else:
            self._informed_until = mark + (self._store.ask(statements.compared_until) - now)

    def renew(self) -> None:
        """Prolong everything that is held, but not a step that hangs. Raises StoreUnavailable."""
        mark, now = self.steady(), self._clock()
        with self._lock:
            for incident_id in [
                each for each, held in self._held.items() if mark - held.since > LONGEST_STEP
            ]:
                log.error("step_hangs", incident=incident_id, seconds=LONGEST_STEP)
                del self._held[incident_id]
            mine = dict(self._held)
        if mine:
            kept = self._store.write(
                lambda connection: statements.renew_leases(
                    connection, owner=self.owner, held=mine, now=now, lease=LEASE
                )
            )
            with self._lock:
                for incident_id, held in mine.items():
                    current = self._held.get(incident_id)
                    if current is None or current.epoch != held.epoch:
                        continue  # dropped meanwhile, perhaps claimed again: the answer is not about that
                    if kept.get(incident_id) == held.epoch:
                        self._held[incident_id] = current.prolonged(mark)
                    else:
                        del self._held[incident_id]

    def listen(self) -> None:
        """Note that heartbeats can be heard now, if they can. Raises StoreUnavailable."""
        if self._hears():
            now = self._clock()
            # Who is late by less than a lease is not taken for dead elsewhere either.
            self._store.write(
                lambda connection: statements.listen_for_heartbeats(connection, now, longest_pause=LEASE)
            )

    def _run(self) -> None:
        clock_checked = self.steady()
        away = False
        while not self._stopping.wait(RENEWAL):
            try:
                self.renew()
                self.lead()
                self.listen()
                if self.steady() - clock_checked > CLOCK_CHECK:
                    self._store.set_clock()
                    clock_checked = self.steady()
                away = False
            except StoreUnavailable as error:
                if not away:
                    log.error("leases_not_renewed", error=str(error))
                away = True
            except Exception:
                log.exception("leases_failed")
