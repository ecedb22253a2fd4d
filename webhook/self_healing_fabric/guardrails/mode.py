"""What the fabric may do, kill switch included: for everything, for one service, for one strategy.

The strictest of the three is in force, so a service that is paused stays so whatever is allowed elsewhere. A
mode that a person sets is kept in the store, across restarts and over the configured one. It is read in the
transaction that announces an action and once more right before the effect, so a pause that was acknowledged
stops everything that has not begun.

Who presses the kill switch while nothing can be stored, as on a full disk, means it no less: the process that
was told keeps to it, and stores it as soon as it can.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog
from sqlalchemy import Connection

from self_healing_fabric.errors import PauseNotStored, StoreUnavailable
from self_healing_fabric.guardrails.proposals import Proposal, Refusal
from self_healing_fabric.settings import Mode, Settings
from self_healing_fabric.store import Store, statements

if TYPE_CHECKING:
    from self_healing_fabric.guardrails.ledger import Ledger

log = structlog.get_logger()

CONTROL = "mode"
PAUSE_POLL = 1.0  # seconds between two looks at whether the pause is over
STRICTNESS = {Mode.AUTOMATIC: 0, Mode.APPROVAL: 1, Mode.DRY_RUN: 2, Mode.PAUSED: 3}


@dataclass(frozen=True)
class _Told:
    by: str
    at: float


class UnstoredPauses:
    """The pauses that this process was told and could not store. Safe to share between threads."""

    def __init__(self) -> None:
        self._told: dict[str, _Told] = {}

    def __bool__(self) -> bool:
        return bool(self._told)

    def any_of(self, names: Iterable[str]) -> bool:
        """Whether a pause under one of these names is in force here."""
        return not self._told.keys().isdisjoint(names)

    def names(self) -> frozenset[str]:
        """Under which names one is in force here; see `control_of`."""
        return frozenset(self._told)

    def put(self, name: str, told: _Told) -> None:
        """From now on it is in force here."""
        self._told[name] = told

    def take(self, name: str) -> _Told | None:
        """From now on it is no longer in force here, unless the store says so."""
        return self._told.pop(name, None)

    def stored(self, name: str, told: _Told) -> None:
        """From now on the store says so, unless it was told anew meanwhile."""
        if self._told.get(name) is told:
            self.take(name)

    def store(self, store: Store) -> None:
        """Store them, except where a person has said something else since. Raises StoreUnavailable."""

        def write(connection: Connection) -> dict[str, _Told]:
            statements.serialize(connection, "control")  # who takes one back from here on writes after us
            kept = dict(self._told)
            for name, told in kept.items():
                since = statements.control(connection, name)
                if since is None or since.changed_at < told.at:
                    statements.set_control(
                        connection, name=name, value=Mode.PAUSED.value, by=told.by, now=told.at
                    )
            return kept

        if self._told:
            for name, told in store.write(write).items():
                self.stored(name, told)


def control_of(*, service: str | None = None, strategy: str | None = None) -> str:
    """The name under which the store keeps a mode: for all, or for a service or a strategy."""
    if service is not None:
        return f"{CONTROL} of service {service}"
    return CONTROL if strategy is None else f"{CONTROL} of strategy {strategy}"


def current(
    connection: Connection,
    settings: Settings,
    unstored: UnstoredPauses,
    *,
    service: str | None = None,
    strategy: str | None = None,
) -> Mode:
    """The mode in force: the strictest of those for everything, for the service and for the strategy.

    Of each, what a person set last, else what is configured.
    """
    by_default = configured(settings, service, strategy)
    if unstored.any_of(by_default):
        return Mode.PAUSED
    return strictest(by_default, statements.controls_named(connection, by_default))


def configured(
    settings: Settings, service: str | None = None, strategy: str | None = None
) -> dict[str, Mode | None]:
    """The controls of which the strictest is in force, each with its configured mode."""
    modes: dict[str, Mode | None] = {CONTROL: settings.mode}
    if service is not None:
        own = settings.services.get(service)
        modes[control_of(service=service)] = own.mode if own else None
    if strategy is not None:
        by_strategy = {str(name): mode for name, mode in settings.strategy_modes.items()}
        modes[control_of(strategy=strategy)] = by_strategy.get(strategy)
    return modes


def strictest(by_default: Mapping[str, Mode | None], set_: Mapping[str, statements.AnyRow]) -> Mode:
    """The mode in force of those that are `configured`, where people may have `set_` others."""
    modes = [Mode(set_[name].value) if name in set_ else mode for name, mode in by_default.items()]
    return max((mode for mode in modes if mode is not None), key=STRICTNESS.__getitem__)


def stricter(
    connection: Connection, settings: Settings, unstored: UnstoredPauses
) -> tuple[Mapping[str, Mode], Mapping[str, Mode]]:
    """The services and the strategies for which a stricter mode is in force than for everything."""
    overall = current(connection, settings, unstored)
    services = {name: each.mode for name, each in settings.services.items() if each.mode is not None}
    strategies = {str(name): mode for name, mode in settings.strategy_modes.items()}
    beginning = f"{CONTROL} of "
    here = {name: Mode.PAUSED for name in unstored.names() if name.startswith(beginning)}
    for name, value in {**statements.controls_that_begin(connection, beginning), **here}.items():
        kind, _, subject = name.removeprefix(beginning).partition(" ")
        (services if kind == "service" else strategies)[subject] = Mode(value)

    def only_stricter(modes: Mapping[str, Mode]) -> Mapping[str, Mode]:
        return {name: mode for name, mode in modes.items() if is_stricter(mode, overall)}

    return only_stricter(services), only_stricter(strategies)


def less_strict_than_configured(
    connection: Connection, settings: Settings
) -> Mapping[str, tuple[Mode, Mode]]:
    """Where a person has set a mode that allows more than the configured one: that one, and the set one."""
    modes: dict[str, Mode | None] = {CONTROL: settings.mode}
    modes |= {control_of(service=name): each.mode for name, each in settings.services.items()}
    modes |= {control_of(strategy=str(name)): each for name, each in settings.strategy_modes.items()}
    set_ = statements.controls_that_begin(connection, CONTROL)
    both = {name: (mode, Mode(set_[name])) for name, mode in modes.items() if mode and name in set_}
    return {name: (mode, other) for name, (mode, other) in both.items() if is_stricter(mode, other)}


def set_by_people(connection: Connection) -> frozenset[str]:
    """For which services and strategies a person has set a mode, as `service NAME` and `strategy NAME`."""
    beginning = f"{CONTROL} of "
    return frozenset(
        name.removeprefix(beginning) for name in statements.controls_that_begin(connection, beginning)
    )


def change(
    connection: Connection,
    mode: Mode | None,
    *,
    by: str,
    now: float,
    service: str | None = None,
    strategy: str | None = None,
) -> None:
    """Set a mode from now on; None: as configured again."""
    name = control_of(service=service, strategy=strategy)
    if mode is None:
        statements.remove_control(connection, name)
    else:
        statements.set_control(connection, name=name, value=mode.value, by=by, now=now)


def change_or_hold(
    store: Store,
    unstored: UnstoredPauses,
    mode: Mode | None,
    *,
    by: str,
    now: float,
    service: str | None = None,
    strategy: str | None = None,
) -> None:
    """As `change`, in a transaction of its own; a pause is in force here in any case, and at once.

    Raises:
        PauseNotStored: it is in force in this process only.
        StoreUnavailable: nothing has changed.
    """
    name = control_of(service=service, strategy=strategy)
    told, before = _Told(by, now), unstored.take(name)
    if mode is Mode.PAUSED:
        unstored.put(name, told)  # before it is tried, which may take as long as the store hangs
    try:
        store.write(
            lambda connection: change(connection, mode, by=by, now=now, service=service, strategy=strategy)
        )
    except StoreUnavailable as error:
        if mode is Mode.PAUSED:
            log.error("pause_not_stored", control=name, by=by, error=str(error))
            raise PauseNotStored(
                f"nothing more begins here, but the pause could not be stored ({error}): a restart or "
                "another replica does not know of it. It is stored as soon as that is possible."
            ) from error
        if before is not None:
            unstored.put(name, before)
        raise
    unstored.stored(name, told)


def is_stricter(mode: Mode, than: Mode) -> bool:
    """Whether one mode allows less than another."""
    return STRICTNESS[mode] > STRICTNESS[than]


def not_stricter(ledger: Ledger, proposal: Proposal) -> Refusal | None:
    """Guardrail `mode`: no effect of any kind while everything, the service or the strategy is paused.

    Nor in another mode that allows less than the one in which it was decided on: then it is decided anew.
    """
    if ledger.mode is Mode.PAUSED:
        return paused(proposal.now)
    if not is_stricter(ledger.mode, proposal.decided_in):
        return None
    return Refusal(CONTROL, f"the mode has become {ledger.mode}", proposal.now + PAUSE_POLL)


def paused(now: float) -> Refusal:
    """The refusal of whatever wants to begin while a pause is in force."""
    return Refusal(CONTROL, "what may act here is paused (kill switch)", now + PAUSE_POLL)
