"""How many replicas there should be: some more, within the configured bound, and later as many as before."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from self_healing_fabric.recovery.effects import NotApplicable
from self_healing_fabric.settings import ScaleSettings


def scaled_up(current: int, bounds: ScaleSettings) -> int:
    """The number of replicas to scale to. Raises NotApplicable when there is no room.

    A target that was scaled to zero is off because somebody wanted that, and stays so.
    """
    if current == 0:
        raise NotApplicable("it was scaled to 0 replicas, which is how people switch it off")
    if current >= bounds.max:
        raise NotApplicable(f"it has {current} replicas already, and at most {bounds.max} are allowed")
    return min(bounds.max, current + bounds.step)


def scaled_back(current: int, was: Mapping[str, Any]) -> int:
    """The number of replicas that there were, from what a scaling says of before it and of what it wanted.

    Raises NotApplicable where there are not as many as it wanted: it may have done nothing, too.
    """
    if current == was["replicas"]:
        raise NotApplicable(f"there are {current} replicas as before: nothing is left to take back")
    if current != was["wanted"]:
        raise NotApplicable(f"somebody has set {current} replicas since: they are left as they are")
    return int(was["replicas"])
