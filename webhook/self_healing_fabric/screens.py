"""Incidents in the terminal: the list, and one incident's story in the order in which it happened.

All text comes from labels and errors of others, so it is escaped before rich sees it: a label must not paint
the terminal or hide a line.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import chain
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.table import Column, Table
from rich.text import Text

from self_healing_fabric.incidents.telling import (
    Fact,
    Finding,
    Suspect,
    Telling,
    target_in_words,
    tell,
    verdict_in_words,
)

STATE_STYLES = {"resolved": "green", "closed": "dim", "escalated": "red", "awaiting_approval": "magenta"}
GAP = 2  # characters between two columns
WIDEST = 63  # characters that a column is filled up to, as many as Kubernetes allows a name
INDENTATION = " " * 37  # below what a line of the timeline says


def list_incidents(console: Console, rows: Sequence[Mapping[str, Any]]) -> None:
    """Print incidents, one a line; on a terminal that is too narrow the title stands below."""
    for line in incident_lines(rows, console.width if console.is_terminal else None):
        console.print(line, soft_wrap=True)


def incident_lines(rows: Sequence[Mapping[str, Any]], width: int | None) -> list[str]:
    """Incidents as lines with rich's markup, or that there are none.

    What is typed or copied is never cut: where a line would be wider than `width`, cause and title stand
    below.
    """
    if not rows:
        return ["No incidents."]
    words = [_words_of(row) for row in rows]
    paint = [{3: STATE_STYLES.get(row["state"], "yellow")} for row in rows]
    lines = list(table_lines(_HEADS, words, paint))
    if width is None or all(Text.from_markup(line).cell_len <= width for line in lines):
        return lines
    head, *lines = table_lines(_HEADS[:5], [each[:5] for each in words], paint)
    return [head, *chain.from_iterable(zip(lines, map(_below, words), strict=True))]


_HEADS = ("id", "opened", "service", "state", "level", "cause", "title")


def _words_of(row: Mapping[str, Any]) -> tuple[str, ...]:
    told = (row["id"], age(row["opened_at"]), row["service"] or "-", _state(row), str(row["level"]))
    return tuple(map(printable, (*told, cause(row), row["title"])))


def _below(texts: Sequence[str]) -> str:
    """Title and cause."""
    why = f" [dim]({escape(texts[5])})[/]" if texts[5] != "-" else ""
    return f"    {escape(texts[6])}{why}"


def table_lines(
    heads: Sequence[str], rows: Sequence[Sequence[str]], paint: Sequence[Mapping[int, str]]
) -> Iterator[str]:
    """A table as lines with rich's markup, in which nothing is cut: what is too long moves the rest.

    `rows` hold no control characters; `paint` says for each of them which column has which style.
    """
    widths = [min(WIDEST, max(map(len, column))) for column in zip(heads, *rows, strict=True)]

    def beside(texts: Sequence[str], styles: Mapping[int, str]) -> str:
        cells = [escape(text.ljust(size)) for text, size in zip(texts, widths, strict=True)]
        for column, style in styles.items():
            cells[column] = f"[{style}]{cells[column]}[/]"
        return (" " * GAP).join(cells).rstrip()

    yield f"[bold]{beside(heads, {})}[/]"
    for texts, styles in zip(rows, paint, strict=True):
        yield beside(texts, styles)


def _show_table(
    console: Console,
    heads: Sequence[str],
    rows: Sequence[Sequence[str]],
    paint: Sequence[Mapping[int, str]] | None = None,
) -> None:
    told = [list(map(printable, row)) for row in rows]
    for line in table_lines(heads, told, paint or [{}] * len(told)):
        console.print(line, soft_wrap=True)


def list_strategies(console: Console, rows: Sequence[Mapping[str, Any]]) -> None:
    """Print what each strategy achieved as a table."""
    if not rows:
        console.print("No action has been verified yet.")
        return
    cells = [
        (
            row["target"],
            row["failure_class"],
            row["pattern"],
            row["strategy"],
            f"{row['healed']} of {row['tried']}",
            f"{row['rate_at_least']:.2f} to {row['rate_at_most']:.2f}",
        )
        for row in rows
    ]
    _show_table(console, ("target", "class", "pattern", "strategy", "healed", "rate"), cells)


def show_incident(console: Console, story: Mapping[str, Any]) -> None:
    """Print one incident as its page tells it: state, what comes next, diagnosis, actions, timeline."""
    told = tell(story)
    console.print(f"[bold]{clean(story['title'])}[/]", soft_wrap=True)
    console.print(
        f"{story['id']}  service {clean(story['service'] or '-')}  {styled_state(story)}  "
        f"severity {clean(story['severity'])}  level {story['level']}",
        soft_wrap=True,
    )
    opened = f"opened {_time(told.opened_at)}"
    if told.ended_at is not None:
        opened += f", ended {_time(told.ended_at)} after {told.lasted}"
    _line(console, opened + (f", taken by {story['acknowledged_by']}" if story["acknowledged_by"] else ""))
    if story["merged_into"]:
        _line(console, f"Merged into {story['merged_into']}, the incident of its cause.")
    if story["split_from"]:
        _line(console, f"Split off from {story['split_from']}.")
    if told.symptoms:
        _line(console, f"symptoms in {', '.join(told.symptoms)}")
    if told.runbook:
        _line(console, f"runbook {told.runbook}")
    if told.prospects:
        _title(console, "What comes next")
        for each in told.prospects:
            _line(console, each.text + (f"  {_time(each.at)}" if each.at else ""), "  ")
    _show_proposal(console, told)
    if told.decisions:
        commands = ", ".join(_command(name, story) for name in told.decisions)
        _line(console, f"You may: {commands}", "  ")
    if told.finding is not None:
        _show_finding(console, told.finding)
    if told.verdict is not None:
        _line(console, told.verdict[:1].upper() + told.verdict[1:], "  ")
    _show_what_was_done(console, told)
    _title(console, "Timeline")
    show_moments(console, story)


def show_question(console: Console, story: Mapping[str, Any]) -> None:
    """Print what an incident asks a person to allow."""
    console.print(f"[bold]{clean(story['title'])}[/]", soft_wrap=True)
    _show_proposal(console, tell(story))


def _show_proposal(console: Console, told: Telling) -> None:
    if told.proposal is not None:
        _line(console, told.proposal.message, "  ")
        _show_diff(console, told.proposal.diff, "    ")


def _command(decision: str, story: Mapping[str, Any]) -> str:
    seen = story.get("asked_for") if decision == "approve" else None  # an older fabric does not tell
    return f"shf {decision} {story['id']}" + (f" --asked-for {seen}" if seen else "")


def show_moments(console: Console, story: Mapping[str, Any]) -> None:
    """Print the entries of a timeline, evidence with its queries."""
    for each in tell(story).timeline:
        console.print(f"[dim]{_time(each.at)}[/] {each.kind:<12} {clean(each.message)}", soft_wrap=True)
        for fact in each.facts:
            if fact.statement != each.message:
                _line(console, fact.statement, INDENTATION)
            _show_query(console, fact, INDENTATION)
        _show_diff(console, each.diff, INDENTATION)


def _show_finding(console: Console, found: Finding) -> None:
    _title(console, "Diagnosis")
    _line(console, found.failure_class + (f": {found.reason}" if found.reason else ""), "  ")
    if found.cause is None:
        _line(console, "No cause is named, because the evidence carries none.", "  ")
        if found.lead:
            _line(console, f"Strongest lead: {found.lead}.", "  ")
    else:
        _show_suspect(console, "Cause", found.cause)
    for other in found.alternatives:
        _show_suspect(console, "Or", other)
        if other.told_apart_by:
            _line(console, f"told apart by {other.told_apart_by}", "      ")
    for title, facts in (("Against it", found.against), ("Also seen", found.facts)):
        for fact in facts:
            _line(console, f"{title}: {fact.statement}", "  ")
            _show_query(console, fact, "      ")
    for title, lines in (("Hurts", found.impact), ("Not looked at", found.missing)):
        if lines:
            _line(console, f"{title}: {'; '.join(lines)}", "  ")
    if found.next_query:
        _line(console, f"Ask next: {found.next_query}", "  ")


def _show_suspect(console: Console, title: str, suspect: Suspect) -> None:
    _line(
        console, f"{title}: {suspect.pattern} in {suspect.service}, confidence {suspect.confidence:.2f}", "  "
    )
    for fact in suspect.facts:
        _line(console, fact.statement, "    ")
        _show_query(console, fact, "      ")


def _show_query(console: Console, fact: Fact, indentation: str) -> None:
    numbers = [
        f"{name} {value}"
        for name, value in (("value", fact.value), ("usual", fact.baseline), ("weight", fact.weight))
        if value
    ]
    source = "" if fact.source == "prometheus" else f"{fact.source}: "
    told = "  ".join([f"{source}{fact.query}", *numbers] if fact.query else numbers)
    if told:
        console.print(f"{indentation}[dim]{clean(told)}[/]", soft_wrap=True)


def _show_what_was_done(console: Console, told: Telling) -> None:
    if told.attempts:
        _title(console, "What was done")
    for each in told.attempts:
        result = each.status + (f", verdict {each.verdict}" if each.verdict else "")
        detail = f": {each.detail}" if each.detail else ""
        took = f", took {each.took}" if each.took else ""
        _line(
            console, f"{_time(each.intended_at)} {each.strategy} {each.target}: {result}{took}{detail}", "  "
        )
    if told.objections:
        _title(console, "Guardrails that spoke")
    for objection in told.objections:
        again = f"; asked again {_time(objection.retry_at)}" if objection.retry_at else ""
        _line(console, f"{_time(objection.at)} {objection.guardrail}: {objection.reason}{again}", "  ")
    if told.calls:
        _title(console, "Who was called")
    for call in told.calls:
        error = f", {call.error}" if call.error else ""
        _line(console, f"{_time(call.at)} {call.whom}: {call.status}{error}", "  ")


def _title(console: Console, text: str) -> None:
    console.print(f"\n[bold]{text}[/]")


def _line(console: Console, text: str, indentation: str = "") -> None:
    console.print(f"{indentation}{clean(text)}", soft_wrap=True)


def _time(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def changed_line(row: Mapping[str, Any]) -> str:
    """An incident that has changed, as one line of a log."""
    state = _state(row)
    taken = f" taken by {row['acknowledged_by']}" if row["acknowledged_by"] else ""
    who = f"{row['updated_at']} {row['id']} {row['service'] or '-'}"
    return printable(f"{who} {state} level {row['level']}{taken} {row['title']}")


def verdict(given: Mapping[str, Any]) -> str:
    """Whether the diagnosis was right, and who says so."""
    return clean(verdict_in_words(given))


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


@contextmanager
def progress(what: str) -> Iterator[Callable[[float], None]]:
    """A bar on the terminal's standard error, gone at the end; takes shares from 0 to 1."""
    with Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task(what, total=1.0)
        yield lambda share: bar.update(task, completed=share)


def show_replay(console: Console, report: Mapping[str, Any]) -> None:
    """Print what a replay found: each incident, then what it says of the fabric."""
    history, summary = report["history"], report["summary"]
    console.print(f"[bold]Replay of {history['from']} to {history['until']}[/], mode {report['mode']}")
    if history["from"] > report["asked"]["since"]:
        console.print(f"[yellow]Prometheus has no data from before {history['from']}.[/]")
    for pause in history["pauses"]:
        console.print(f"[yellow]Nothing was scraped from {pause['from']} to {pause['until']}.[/]")
    if not report["settled"]:
        console.print("[yellow]Rules that read alerts did not settle: times of such alerts may differ.[/]")
    for incident in report["incidents"]:
        _show_replayed(console, incident)
    console.print()
    if not report["incidents"]:
        console.print("Nothing would have happened: no incident would have opened.")
    else:
        _show_summary(console, summary)
        outcomes = report["stopped_by_outcomes"]
        console.print(
            f"{report['effect']} So `max_heals` and `max_failures` were not asked: had every action healed, "
            f"the first would have stopped {outcomes['max_heals_if_all_healed']} of them; had none, the "
            f"second {outcomes['max_failures_if_none_healed']}."
        )
        console.print(report["not_replayed"])
    if report["alerts"]["people"]:
        told = ", ".join(f"{name} {count}" for name, count in report["alerts"]["people"].items())
        console.print(f"Alerts that go past the fabric to people: {clean(told)}")


def _show_replayed(console: Console, incident: Mapping[str, Any]) -> None:
    lasted = "not over at the end" if incident["seconds"] is None else f"{incident['seconds']:.0f} s"
    console.print()
    console.print(
        f"[bold]{incident['opened_at']}[/]  {clean(incident['service'] or '-')}  "
        f"{clean(incident['signal'] or '-')}  {lasted}  {clean(incident['title'])}",
        soft_wrap=True,
    )
    found = incident["cause"]
    if found is not None:
        where = clean(found["service"] or found["lead"] or "-")
        console.print(
            f"  cause      {found['pattern']} in {where}, confidence {found['confidence']:.2f}",
            soft_wrap=True,
        )
    for told in incident["course"]:
        line = _REPLAYED[told["what"]](told)
        if line:
            console.print(f"  {told['seconds']:>7.0f} s  {line}", soft_wrap=True)


def _replayed_action(told: Mapping[str, Any]) -> str:
    return f"{told['strategy']} {clean(target_in_words(told['target']))}"


_REPLAYED: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "intent": lambda told: f"[green]would[/] {_replayed_action(told)}",
    "would": lambda told: f"[green]would[/] {_replayed_action(told)} (dry run)",
    "approval": lambda told: f"[magenta]would ask a person to approve:[/] {_replayed_action(told)}",
    "guardrail": lambda told: f"[yellow]{told['guardrail']} stops it:[/] {clean(told['reason'])}",
    "page": lambda told: (
        f"[red]would call[/] {clean(', '.join(told['called']) or 'nobody')} "
        f"(level {told['level']}): {clean(told['reason'])}"
    ),
}


def _show_summary(console: Console, summary: Mapping[str, Any]) -> None:
    table = Table("", Column(overflow="fold"), box=None, show_header=False, pad_edge=False)
    soon = summary["median_seconds_to_first_action"]
    merged = f", {summary['merged']} more were symptoms of these" if summary["merged"] else ""
    rows = [
        ("incidents", f"{summary['incidents']} ({summary['incidents_per_day']:g} a day{merged})"),
        ("by service", _counts(summary["by_service"])),
        ("acted on", f"{summary['incidents_acted_on']}: {_counts(summary['actions'])}"),
        ("first action", "-" if soon is None else f"{soon:.0f} s after the incident opened (median)"),
        ("stopped by guardrails", _counts(summary["guardrail_blocks"])),
        ("approvals asked", str(summary["approvals_asked"])),
        (
            "people called",
            f"{summary['pages']} times; never in {summary['incidents_without_pages']} incidents",
        ),
        ("causes", f"{summary['causes_named']} named, {summary['causes_not_named']} not trusted enough"),
    ]
    for name, value in rows:
        table.add_row(name, clean(value))
    console.print(table)


def _counts(counted: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counted.items()) or "none"


def age(opened_at: str) -> str:
    """How long ago that was, as short as it can be said: "42 s ago", "3 h ago"."""
    seconds = max(0.0, time.time() - datetime.fromisoformat(opened_at).timestamp())
    for unit, size, most in (("s", 1, 100), ("min", 60, 100), ("h", 3600, 48)):
        if seconds < size * most:
            return f"{seconds // size:.0f} {unit} ago"
    return f"{seconds // 86400:.0f} d ago"


def _state(row: Mapping[str, Any]) -> str:
    return str(row["state"]) + (f" ({row['outcome']})" if row["outcome"] else "")


def styled_state(row: Mapping[str, Any]) -> str:
    """The state, with its outcome, in its colour."""
    text = _state(row)
    style = STATE_STYLES.get(row["state"], "yellow")
    return f"[{style}]{text}[/]"


def cause(row: Mapping[str, Any]) -> str:
    """The root-cause pattern with its confidence, where the diagnosis names one."""
    known = row["pattern"] not in (None, "unknown") and row["confidence"] is not None
    return f"{row['pattern']} {row['confidence']:.2f}" if known else "-"


def clean(text: str) -> str:
    """Text of strangers, without control characters and without rich's markup."""
    return escape(printable(text))


def printable(text: str) -> str:
    """The text without control characters: none of them may paint, erase or end a line."""
    return "".join(character if character.isprintable() else " " for character in text)


def show_status(console: Console, report: Mapping[str, Any]) -> None:
    """Print what the fabric is doing."""
    works = "[green]works[/]" if report["healthy"] else "[red]does not work[/]"
    role = "leader" if report["leader"] else "not the leader"
    console.print(f"The fabric {works}: version {report['version']}, mode {report['mode']}, {role}.")
    for problem in report["problems"]:
        console.print(f"  [red]{clean(problem)}[/]")
    found = ", ".join(f"{number} {state}" for state, number in sorted(report["incidents"].items()))
    console.print(f"Incidents: {found or 'none open'}.")
    inbox = report["inbox"]
    console.print(f"Notifications: {inbox['waiting']} waiting, {inbox['failed']} failed.")
    loop, reconciled = report["loop"], report["reconciled"]
    taken = "" if loop["seconds"] is None else f", took {1000 * loop['seconds']:.0f} ms"
    console.print(f"Last loop: {_ago(loop)}{taken}. Compared with the servers: {_ago(reconciled)}.")
    _show_table(
        console,
        ("server", "version", "answers", "latency", "last answer", "error"),
        list(map(_words_of_server, report["servers"])),
        [{2: _ANSWER_STYLES[server["answers"]]} for server in report["servers"]],
    )
    for kind in ("guardians", "guards"):
        if report[kind]["answering"]:
            each = ", ".join(
                f"{clean(name)} {'unknown' if share is None else f'{share:.0%}'}"
                for name, share in report[kind]["answering"].items()
            )
            console.print(f"{kind.capitalize()} that answer ({_ago(report[kind])}): {each}.")
    if len(report["replicas"]) > 1:
        for replica in report["replicas"]:
            marks = [word for word in ("leader", "this") if replica[word]]
            told = f" ({', '.join(marks)})" if marks else ""
            console.print(f"Replica {clean(replica['name'])}{told}: {replica['incidents']} incidents.")


_ANSWER_STYLES = {True: "green", False: "red", None: "none"}


def _words_of_server(server: Mapping[str, Any]) -> tuple[str, ...]:
    latency = server["latency_seconds"]
    return (
        f"{server['kind']} {server['url']}",
        server.get("version") or "-",
        {True: "yes", False: "no", None: "not asked"}[server["answers"]],
        "-" if latency is None else f"{1000 * latency:.0f} ms",
        _ago(server["answered"]),
        server["error"] or "",
    )


def _ago(seen: Mapping[str, Any]) -> str:
    age = seen["age_seconds"]
    return "never" if age is None else f"{age:.0f} s ago"
