"""What the reader sees: a running story with seconds, and a table at the end.

On a terminal the table of faults stays at the bottom and changes in place; in a file or a CI log there are
plain lines and nothing that moves, because escape sequences in a log hide the one line that explains a
failure. Texts of the fabric are printed as they are: a square bracket in a query is no markup.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from shf_demo.timings import Timings
from shf_demo.trials import Trial
from shf_demo.watching import Happening

_COLOURS = {
    "fault": "bold red",
    "alert": "red",
    "diagnosis": "bold magenta",
    "evidence": "magenta",
    "plan": "yellow",
    "guardrail": "yellow",
    "action": "bold yellow",
    "verification": "green",
    "escalation": "bold red",
    "waiting": "cyan",
    "healed": "bold green",
    "not healed": "bold red",
}


class Screen:
    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, refresh_per_second=2) if console.is_terminal else None

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.update(Text(""))
            self._live.stop()

    def say(self, text: str, style: str = "") -> None:
        self._console.print(Text(text, style=style))

    def happened(self, happening: Happening) -> None:
        clock = Text(f"{happening.seconds:7.1f} s  ", style="dim")
        word = Text(f"{happening.kind:<13}", style=_COLOURS.get(happening.kind, ""))
        self._console.print(Text.assemble(clock, word, happening.message))

    def durations(self, timings: Timings) -> None:
        """The durations in use beside the shipped ones: shortened, and visibly so."""
        table = Table(title="Durations of the rules in this run", title_justify="left")
        for column in ("duration", "here", "shipped"):
            table.add_column(column)
        for name, here, shipped in timings.compared():
            table.add_row(name, here, shipped, style="" if here == shipped else "yellow")
        self._console.print(table)

    def update(self, trials: Sequence[Trial]) -> None:
        if self._live:
            self._live.update(trial_table(trials))

    def result(self, trials: Sequence[Trial]) -> None:
        self._console.print(trial_table(trials))


def trial_table(trials: Sequence[Trial]) -> Table:
    table = Table(title="Faults, and the seconds from each", title_justify="left")
    for column in ("fault", "service", "detected", "healed", "action", "verdict"):
        table.add_column(column, justify="right" if column in ("detected", "healed") else "left")
    for trial in trials:
        style = "" if trial.healed is None else "green" if trial.healed else "red"
        table.add_row(
            trial.kind,
            trial.service,
            _seconds(trial.detected_after),
            _seconds(trial.healed_after),
            trial.action,
            Text(trial.verdict, style=style),
        )
    return table


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.1f} s"
