"""Guardrails that others bring: plugins, and the boundary enforcer of the program that embeds the fabric.

They are asked right before the transaction that announces an action and not in it, for they may take their
time and the transaction holds up everybody's writes. They fail closed: whoever raises, hangs or answers
anything but what the contract names has refused, and people are called, for nothing tells that asking again
would help.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

from self_healing_fabric.extensions import Misbehaved, call, make
from self_healing_fabric.guardrails.proposals import Proposal, Refusal
from self_healing_fabric.settings import Settings

ANSWERS_WITHIN = 5.0  # seconds for one of them
LONGEST_REASON = 500  # characters of an answer in the timeline
LEAST_PAUSE = 1.0  # seconds until one that refused for a time is asked again
BOUNDARY = "boundary"


class GuardrailPlugin(Protocol):
    """What the factory of a plugin returns; it was called with the settings and the validated options."""

    def check(self, proposal: Proposal) -> Refusal | None:
        """Its refusal of an action, or None to allow it. Asked in a thread of its own."""


class BoundaryEnforcer(Protocol):
    """Says of every effect whether it lies within the bounds that the embedding program knows."""

    def allows(self, proposal: Proposal) -> bool:
        """Whether the effect may happen: `True` allows it, everything else refuses it."""


@dataclass(frozen=True)
class Outside:
    """One that is asked. `ask` returns a refusal or None, and may raise or hang."""

    name: str
    who: str
    ask: Callable[[Proposal], Any]

    def refusal_of(self, proposal: Proposal) -> Refusal | None:
        """Its refusal under its own name, or None when it allows the action without a doubt."""
        try:
            answer = call(self.who, lambda: self.ask(proposal), within=ANSWERS_WITHIN)
        except Misbehaved as error:
            return self._doubt(str(error))
        if answer is None:
            return None
        if not isinstance(answer, Refusal):
            return self._doubt(f"{self.who} answered {answer!r}")
        retry_at = answer.retry_at
        if retry_at is not None:
            if not isinstance(retry_at, int | float) or not math.isfinite(retry_at):
                return self._doubt(f"{self.who} says to ask again at {retry_at!r}")
            retry_at = max(float(retry_at), proposal.now + LEAST_PAUSE)
        reason = str(answer.reason)[:LONGEST_REASON]
        # `remember` belongs to the store's own guardrails.
        return replace(answer, guardrail=self.name, reason=reason, retry_at=retry_at, remember=None)

    def _doubt(self, what: str) -> Refusal:
        return Refusal(self.name, f"{what[:LONGEST_REASON]}, so nothing is done")


def plugins(settings: Settings) -> tuple[Outside, ...]:
    """The guardrails that the configuration names. Raises ConfigurationError when one cannot be made."""
    found = []
    for name, options in settings.plugins.guardrails.items():
        made = make("guardrails", name, settings, options, within=ANSWERS_WITHIN)
        found.append(Outside(name, f"plugin {name}", partial(_check, made)))
    return tuple(found)


def _check(plugin: GuardrailPlugin, proposal: Proposal) -> Any:
    return plugin.check(proposal)


def boundary(allows: Callable[[Proposal], Any]) -> Outside:
    """Guardrail `boundary`: only an explicit True lets an effect happen."""

    def ask(proposal: Proposal) -> Refusal | None:
        answer = allows(proposal)
        if answer is True:
            return None
        told = "" if answer is False else f" (it answered {answer!r})"
        return Refusal(BOUNDARY, f"the boundary enforcer does not allow it{told}")

    return Outside(BOUNDARY, "the boundary enforcer", ask)


def first_refusal(asked: Iterable[Outside], proposal: Proposal) -> Refusal | None:
    """The first refusal, or None when all of them allow the action."""
    return next((no for each in asked if (no := each.refusal_of(proposal)) is not None), None)
