"""The fabric as one thing that a program starts, asks and stops.

`HealingIntegration` stands on top of everything, the HTTP service included, and is imported when it is asked
for: the modules of this package are used by what it stands on.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from self_healing_fabric.embedding import HealingIntegration

__all__ = ["HealingIntegration"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module("self_healing_fabric.embedding"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
