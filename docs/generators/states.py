"""The page and the drawing of the state machine, from `incidents/lifecycle.py`.

The drawing needs no layout: states in order on one line, ways forward as arcs above it, ways back below.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import escape

from self_healing_fabric.incidents import lifecycle
from self_healing_fabric.incidents.lifecycle import TRANSITIONS, Outcome, State

STEP, MARGIN, HALF = 165, 95, 66  # pixels between two states, to the border, half a box
LINE, HEIGHT = 300, 540
USUAL = "3b7a9e"
COLOURS = {State.ESCALATED: "b35900", State.CLOSED: "8a94a0"}  # of the ways that most states have
HEAD = """\
# State machine

An incident is in one of these states. Every way that is not drawn is refused by the code: a step that tried it would be a defect. Ways
forward are above the line, ways back below; to `escalated` in brown, to `closed` in grey.

![The states of an incident and the ways between them](state-machine.svg)

This page is generated from the code (`docs/generate_reference.py`).

| state | what happens | goes on to |
|---|---|---|
"""
OUTCOMES = """
## Outcomes

| outcome of a resolved or closed incident | means |
|---|---|
"""
MEANINGS = {
    Outcome.HEALED: "by an action of the fabric, proved",
    Outcome.RECOVERED: "by itself or by someone else, proved",
    Outcome.CLOSED_BY_PERSON: "somebody closed it; nothing is proved",
    Outcome.MERGED: "it was a symptom of another incident, which goes on",
}


def page() -> str:
    """The whole page."""
    meanings = _meanings()
    rows = (
        f"| `{state}` | {meanings[state]} | {', '.join(f'`{each}`' for each in _next(state)) or 'nothing'} |\n"
        for state in State
    )
    outcomes = (f"| `{outcome}` | {MEANINGS[outcome]} |\n" for outcome in Outcome)
    return HEAD + "".join(rows) + OUTCOMES + "".join(outcomes)


def drawing() -> str:
    """The ways between the states as SVG; readable on light and dark pages."""
    states = list(State)
    width = 2 * MARGIN + STEP * (len(states) - 1)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {HEIGHT}" role="img"'
        ' font-family="sans-serif" font-size="17">',
        "<title>States of an incident</title>",
        "<defs>",
        *map(_marker, sorted({*COLOURS.values(), USUAL})),
        "</defs>",
    ]
    parts += _arcs(states)
    for number, state in enumerate(states):
        x = MARGIN + STEP * number
        parts.append(
            f'<rect x="{x - HALF - 6}" y="{LINE - 18}" width="{2 * HALF + 12}" height="36" rx="6"'
            ' fill="#ffffff" stroke="#1f4e79" stroke-width="1.5"/>'
        )
        parts.append(
            f'<text x="{x}" y="{LINE + 5}" text-anchor="middle" fill="#12263a">{escape(state.value)}</text>'
        )
    return "\n".join([*parts, "</svg>", ""])


def _marker(colour: str) -> str:
    return (
        f'<marker id="end-{colour}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7"'
        f' orient="auto"><path d="M0 0L8 4L0 8z" fill="#{colour}"/></marker>'
    )


def _arcs(states: list[State]) -> Iterator[str]:
    for number, state in enumerate(states):
        for other in _next(state):
            distance = states.index(other) - number
            # Ends stand apart by where the other end is, so that arcs do not share a point.
            start = MARGIN + STEP * number + _offset(distance)
            end = MARGIN + STEP * (number + distance) - _offset(distance)
            top = LINE - 18 if distance > 0 else LINE + 18
            bow = top - 33 * distance - (12 if distance > 0 else -12)
            colour = COLOURS.get(other, USUAL)
            yield (
                f'<path d="M{start} {top}C{start} {bow} {end} {bow} {end} {top}" fill="none" stroke="#{colour}"'
                f' stroke-width="1.4" marker-end="url(#end-{colour})"/>'
            )


def _offset(distance: int) -> int:
    shift = 48 - 7 * (abs(distance) - 1)
    return shift if distance > 0 else -shift


def _next(state: State) -> list[State]:
    return [each for each in State if each in TRANSITIONS[state]]


def _meanings() -> dict[State, str]:
    """What the module says of each state: a word at the line's start, its text indented where it goes on."""
    found = {
        match[1]: " ".join(match[2].split())
        for match in re.finditer(r"^(\w+) {2,}(\S.*(?:\n {4,}\S.*)*)", lifecycle.__doc__ or "", re.M)
    }
    return {state: found[state.value] for state in State}
