"""Heals what Prometheus alerts on: diagnoses, repairs within guardrails, proves it, or escalates."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from self_healing_fabric.embedding import HealingIntegration

__version__ = "0.1.0"
__all__ = ["HealingIntegration", "__version__"]


def __getattr__(name: str) -> Any:
    """`HealingIntegration`, imported when it is asked for: everything else must not wait for Flask."""
    if name == "HealingIntegration":
        from importlib import import_module

        return import_module("self_healing_fabric.embedding").HealingIntegration
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
