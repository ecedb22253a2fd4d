"""Incidents in the terminal: the list, and one incident's story in the order in which it happened.

All text comes from labels and errors of others, so it is escaped before rich sees it: a label must not paint
the terminal or hide a line.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

STATE_STYLES = {"resolved": "green", "closed": "dim", "escalated": "red", "awaiting_approval": "magenta"}


def list_incidents(console: Console, rows: Sequence[Mapping[str, Any]]) -> None:
    """Print incidents as a table."""
    if not rows:
        console.print("No incidents.")
        return
    # What is typed or copied must never be cut, however narrow the terminal is.
    whole = [Column(name, no_wrap=True, overflow="ignore") for name in ("id", "service")]
    table = Table(*whole, "state", "class", "cause", "level", "opened", "title", box=None, pad_edge=False)
    for row in rows:
        table.add_row(
            row["id"],
            clean(row["service"] or "-"),
            styled_state(row),
            row["failure_class"] or "-",
            cause(row),
            str(row["level"]),
            row["opened_at"],
            clean(row["title"]),
        )
    console.print(table)


def list_strategies(console: Console, rows: Sequence[Mapping[str, Any]]) -> None:
    """Print what each strategy achieved as a table."""
    if not rows:
        console.print("No action has been verified yet.")
        return
    table = Table(
        Column("target", no_wrap=True, overflow="ignore"), "class", "pattern", "strategy", "healed",
        "rate", box=None, pad_edge=False,
    )  # fmt: skip
    for row in rows:
        table.add_row(
            clean(row["target"]),
            row["failure_class"],
            row["pattern"],
            row["strategy"],
            f"{row['healed']} of {row['tried']}",
            f"{row['rate_at_least']:.2f} to {row['rate_at_most']:.2f}",
        )
    console.print(table)


def show_incident(console: Console, story: Mapping[str, Any]) -> None:
    """Print one incident: summary, timeline, evidence with its queries."""
    console.print(f"[bold]{clean(story['title'])}[/]")
    console.print(
        f"{story['id']}  service {clean(story['service'] or '-')}  {styled_state(story)}  "
        f"severity {story['severity']}  level {story['level']}"
    )
    console.print(f"class {story['failure_class'] or '-'}  cause {cause(story)}")
    if story["verdict"]:
        console.print(verdict(story["verdict"]))
    if story["merged_into"]:
        console.print(f"Merged into {story['merged_into']}, the incident of its cause.")
    if story["split_from"]:
        console.print(f"Split off from {story['split_from']}.")
    symptoms = sorted({alert["service"] for alert in story["alerts"]} - {story["service"], None})
    if symptoms:
        console.print(f"symptoms in {clean(', '.join(symptoms))}")
    if story["waiting_for"]:
        console.print(f"[yellow]Waiting for:[/] {clean(story['waiting_for'])}")
    console.print()
    for entry in story["timeline"]:
        console.print(f"[dim]{entry['at']}[/] {entry['kind']:<12} {clean(entry['message'])}", soft_wrap=True)
        if entry["kind"] == "evidence":
            console.print(f"{'':38}[dim]{clean(entry['data']['query'])}[/]", soft_wrap=True)
        _show_diff(console, entry["data"].get("diff") or (), " " * 38)


def verdict(given: Mapping[str, Any]) -> str:
    """Whether the diagnosis was right, and who says so."""
    right = {True: "right", False: "wrong", None: "not judged"}
    truth = ", ".join(clean(given[name]) for name in ("service", "pattern") if given[name])
    return (
        f"verdict of {clean(given['by'])}: service {right[given['service_right']]}, "
        f"pattern {right[given['pattern_right']]}" + (f" (it was {truth})" if truth else "")
    )


def show_drift(console: Console, reports: Sequence[Mapping[str, Any]]) -> None:
    """Print in what each configuration differs: `-` is what runs, `+` what is wanted."""
    if not reports:
        console.print("No service has a `recovery.configuration`.")
    for report in reports:
        if report["problem"] is not None:
            console.print(
                f"[yellow]{clean(report['service'])}:[/] {clean(report['problem'])}", soft_wrap=True
            )
            continue
        number = report["places"]
        told = f"differs in {number} place{'s' if number != 1 else ''}" if number else "is as it is wanted"
        title = f"{report['target']} {told} ({report['wanted']})"
        console.print(f"[bold]{clean(report['service'])}:[/] {clean(title)}", soft_wrap=True)
        _show_diff(console, report["lines"], "  ")
        for note in report["notes"]:
            console.print(f"  [dim]{clean(note)}[/]", soft_wrap=True)


def _show_diff(console: Console, lines: Sequence[str], indentation: str) -> None:
    for line in lines:
        colour = {"-": "red", "+": "green", "@": "cyan"}.get(line[:1], "dim")
        console.print(f"{indentation}[{colour}]{clean(line)}[/]", soft_wrap=True)


def styled_state(row: Mapping[str, Any]) -> str:
    """The state, with its outcome, in its colour."""
    text = row["state"] + (f" ({row['outcome']})" if row["outcome"] else "")
    style = STATE_STYLES.get(row["state"], "yellow")
    return f"[{style}]{text}[/]"


def cause(row: Mapping[str, Any]) -> str:
    """The root-cause pattern with its confidence."""
    return (
        f"{row['pattern']} {row['confidence']:.2f}"
        if row["pattern"] and row["confidence"] is not None
        else "-"
    )


def clean(text: str) -> str:
    """Text of strangers, without control characters and without rich's markup."""
    return escape("".join(character if character.isprintable() else " " for character in text))
