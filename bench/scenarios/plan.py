"""What is done in which repeat: everything that is left to chance, drawn before the run from its seed.

Drawn by the name of the scenario and the number of the repeat and not in sequence, so that ONLY=name or a
resumed run does the same things as the whole.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from bench.scenarios.faults import Scenario
from bench.scenarios.shop import CALLS

LONGEST_DELAY = 60.0  # seconds
AFTER_THE_END = (
    5.0  # seconds; a fault that ends by itself is called transient when it is heard of after its end
)
DECOY_LEAD = (6.0, 12.0)  # seconds between the restart of an innocent service and the fault


@dataclass(frozen=True)
class Planned:
    """One repeat of a scenario.

    Attributes:
        role: of the service that is hit.
        delay: seconds from Alertmanager's first notification until the fabric gets it.
        decoy: the role of an innocent service that is restarted before; empty in half of the repeats.
        lead: seconds from that restart to the fault.
    """

    scenario: Scenario
    repeat: int
    role: str
    delay: float
    decoy: str
    lead: float
    seed: str


def planned(scenario: Scenario, repeat: int, seed: int) -> Planned:
    """The same for the same scenario, repeat and seed."""
    named = f"{seed}/{scenario.name}/{repeat}"
    dice = random.Random(named)
    role = dice.choice(scenario.roles)
    delay = dice.uniform(0.0, LONGEST_DELAY)
    if scenario.lasts is not None:
        delay = max(delay, scenario.lasts + AFTER_THE_END)
    others = [other for other in CALLS if other != role]
    decoy, lead = dice.choice(others), dice.uniform(*DECOY_LEAD)
    # By pairs of repeats: half of the odd ones and half of the even ones have a decoy.
    has_decoy = (repeat // 2 + random.Random(f"{seed}/{scenario.name}").randrange(2)) % 2 == 0
    return Planned(scenario, repeat, role, delay, decoy if has_decoy else "", lead, named)


def plan(scenarios: Sequence[Scenario], repeats: int, seed: int) -> list[list[Planned]]:
    """Repeat by repeat, so that a run that is cut short has whole ones; within one in mixed order."""
    whole = []
    for repeat in range(1, repeats + 1):
        some = [planned(scenario, repeat, seed) for scenario in scenarios]
        random.Random(f"{seed}/{repeat}").shuffle(some)
        whole.append(some)
    return whole
