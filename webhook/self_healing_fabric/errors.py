"""The errors that reach a person, each with what to do about it.

Everything that the fabric raises on purpose descends from `ShfError`, so the command line can print one line
instead of a traceback and the API can answer with a problem document. An exception outside this tree is a
defect of ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class ShfError(Exception):
    """Base of all errors raised on purpose; its text is fit for a person."""


class UsageError(ShfError):
    """The command was called in a way that cannot work: correct the call. Exit status 2."""


class DeploymentFilesMissing(ShfError):
    """The shipped rules or dashboards are not where they belong: install the package again."""


class StoreUnavailable(ShfError):
    """The incident store cannot take a write now: nothing was stored, try again later."""


class PauseNotStored(StoreUnavailable):
    """The kill switch holds in this process, and it could not be stored: nobody else knows of it."""


class StoreInUse(ShfError):
    """Another process holds this SQLite store: stop it, or use PostgreSQL for several replicas."""


class LeaseLost(ShfError):
    """Another worker took this incident over while the step ran: its result must be dropped."""


class UnknownIncident(ShfError):
    """No incident has this id: list them with `shf incidents`."""


class DecisionRefused(ShfError):
    """The decision does not fit the incident's state, for example approving what awaits no approval."""


def words_of(message: str) -> str:
    """What pydantic says of a mistake; of one that our own code found, only what that says."""
    return message.removeprefix("Value error, ")


@dataclass(frozen=True)
class Problem:
    """One thing wrong in the configuration: where (`services.cart.health`) and what to do."""

    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" if self.path else self.message


class ConfigurationError(ShfError):
    """The configuration cannot be used. Holds every problem found, not only the first. Exit status 2."""

    def __init__(self, source: str, problems: Sequence[Problem]) -> None:
        self.source = source
        self.problems = tuple(problems)
        count = len(self.problems)
        lines = "\n".join(f"  {problem}" for problem in self.problems)
        super().__init__(f"{source}: {count} problem{'s' if count != 1 else ''}\n{lines}")
