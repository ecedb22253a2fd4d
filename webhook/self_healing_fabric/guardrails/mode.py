"""What the fabric may do, kill switch included: for everything, for one service, for one strategy.

The strictest of the three is in force, so a service that is paused stays so whatever is allowed elsewhere. A
mode that a person sets is kept in the store, across restarts and over the configured one. It is read in the
transaction that announces an action and once more right before the effect, so a pause that was acknowledged
stops everything that has not begun.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from sqlalchemy import Connection

from self_healing_fabric.guardrails.proposals import Proposal, Refusal
from self_healing_fabric.settings import Mode, Settings
from self_healing_fabric.store import statements

if TYPE_CHECKING:
    from self_healing_fabric.guardrails.ledger import Ledger

CONTROL = "mode"
PAUSE_POLL = 1.0  # seconds between two looks at whether the pause is over
STRICTNESS = {Mode.AUTOMATIC: 0, Mode.APPROVAL: 1, Mode.DRY_RUN: 2, Mode.PAUSED: 3}


def control_of(*, service: str | None = None, strategy: str | None = None) -> str:
    """The name under which the store keeps a mode: for all, or for a service or a strategy."""
    if service is not None:
        return f"{CONTROL} of service {service}"
    return CONTROL if strategy is None else f"{CONTROL} of strategy {strategy}"


def current(
    connection: Connection,
    settings: Settings,
    *,
    service: str | None = None,
    strategy: str | None = None,
    lock: bool = False,
) -> Mode:
    """The mode in force: the strictest of those for everything, for the service and for the strategy.

    Of each, what a person set last, else what is configured. `lock`: it stays so in this transaction.
    """
    by_default = configured(settings, service, strategy)
    return strictest(by_default, statements.controls_named(connection, by_default, lock=lock))


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


def stricter(connection: Connection, settings: Settings) -> tuple[Mapping[str, Mode], Mapping[str, Mode]]:
    """The services and the strategies for which a stricter mode is in force than for everything."""
    overall = current(connection, settings)
    services = {name: each.mode for name, each in settings.services.items() if each.mode is not None}
    strategies = {str(name): mode for name, mode in settings.strategy_modes.items()}
    for name, value in statements.controls_that_begin(connection, f"{CONTROL} of ").items():
        kind, _, subject = name.removeprefix(f"{CONTROL} of ").partition(" ")
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
