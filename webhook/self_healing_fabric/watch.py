"""`shf incidents --watch`: what changes, until Ctrl-C.

A screen that is drawn again is good for a person and useless in a pipe or a log, where the same table would
come every two seconds. So a terminal gets the list drawn anew, and everything else one line for each change.
A fabric that is being restarted is no reason to stop watching: it is asked again, and said so once.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

import click
from rich.console import Console
from rich.live import Live
from rich.text import Text

from self_healing_fabric import screens
from self_healing_fabric.client import ApiError, FabricClient
from self_healing_fabric.incidents.telling import needs_person

Json = Mapping[str, Any]


def watch_list(
    api: FabricClient,
    filters: Mapping[str, Any],
    limit: int,
    *,
    interval: float,
    as_json: bool,
    console: Console,
) -> None:
    """Show the newest `limit` incidents, and what changes in them, every `interval` seconds until Ctrl-C.

    Raises ApiError when the first look fails.
    """

    def ask() -> Json:
        page: Json = api.incidents(filters, limit)
        return page

    with suppress(KeyboardInterrupt):
        if console.is_terminal and not as_json:
            with Live(console=console, auto_refresh=False) as live:
                for page in _again_and_again(ask, interval):
                    rows = page["incidents"]
                    more = f"The newest {limit}. " if page.get("next_cursor") is not None else ""
                    lines = [more + _head(rows, interval), "", *screens.incident_lines(rows, console.width)]
                    live.update(Text("\n").join(map(Text.from_markup, lines)), refresh=True)
            return
        known: dict[str, tuple[Any, ...]] = {}
        for page in _again_and_again(ask, interval):
            for row in reversed(page["incidents"]):  # the oldest first, as they happened
                seen = (row["state"], row["outcome"], row["level"], row["acknowledged_by"], row["service"])
                if known.get(row["id"]) != seen:
                    known[row["id"]] = seen
                    click.echo(json.dumps(row) if as_json else screens.changed_line(row))


def _head(rows: Sequence[Json], interval: float) -> str:
    """Above the list, for a low terminal cuts off what is below."""
    number = sum(map(needs_person, rows))
    wait = "waits" if number == 1 else "wait"
    waiting = f"[red]{number} of them {wait} for a person.[/] " if number else ""
    now = time.strftime("%H:%M:%S UTC", time.gmtime())
    return f"{waiting}[dim]As of {now}, again every {interval:g} s; Ctrl-C ends.[/]"


def watch_incident(
    api: FabricClient, incident_id: str, *, interval: float, as_json: bool, console: Console
) -> None:
    """Show one incident, then what is added to its timeline, until it is closed or Ctrl-C comes."""

    def ask() -> Json:
        story: Json = api.incident(incident_id)
        return story

    with suppress(KeyboardInterrupt):
        last = 0
        for story in _again_and_again(ask, interval):
            new = [entry for entry in story["timeline"] if entry["id"] > last]
            if as_json:
                for entry in new:
                    click.echo(json.dumps(entry))
            elif last == 0:
                screens.show_incident(console, story)
            else:
                screens.show_moments(console, {**story, "timeline": new})
            last = max((entry["id"] for entry in story["timeline"]), default=last)
            if story["state"] == "closed":
                return


def _again_and_again(ask: Callable[[], Any], interval: float) -> Iterator[Any]:
    away = False
    yield ask()
    while True:
        time.sleep(interval)
        try:
            answer = ask()
        except ApiError as error:
            if not away:
                click.echo(f"shf: {error} It is asked again.", err=True)
            away = True
            continue
        if away:
            click.echo("shf: the fabric answers again.", err=True)
        away = False
        yield answer
