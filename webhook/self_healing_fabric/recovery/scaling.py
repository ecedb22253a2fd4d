"""How many replicas there should be: some more, never beyond the configured bound."""

from __future__ import annotations

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
