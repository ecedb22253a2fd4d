"""A plot as SVG, drawn by the server: small multiples over one time axis, with numbered marks.

A picture that needs a script is missing where scripts are off, and one from another host tells that host what
fails here. Colours come from classes, so that light and dark both have contrast; every line also differs by
its dashes, for those who see no colours. All texts are escaped: names of targets are strangers' text.
"""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape

import numpy as np

from self_healing_fabric.api.pages.signals import Curve, Line, Plot
from self_healing_fabric.incidents.evidence import is_outside
from shf_queries.catalogue import LATENCY_P95

WIDE, NARROW = 720, 340  # units; the narrow one has the same size of letters on a phone
PANEL, TITLE, TOP, BOTTOM, LEFT, RIGHT = 84, 22, 26, 26, 52, 10
KNOB = 8  # radius of a mark's number
HEADROOM = 1.12  # above the highest value
GAP_STEPS = 2.5  # without samples, after which a line is interrupted
SHARES = frozenset({"heartbeat", "error_ratio", "cpu", "memory"})
TITLES = {
    "heartbeat": "Targets that answer",
    "error_ratio": "Requests that fail",
    "latency_p95": "Latency (P95)",
    "cpu": "CPU",
    "memory": "Memory",
    "config_drift": "Places that differ from the wanted configuration",
    "state_divergence": "Different states of its replicas",
}

STYLE = """
svg{color-scheme:light dark}
.ground{fill:#fff}.frame{fill:#f6f7f9;stroke:#c9ced6}.text{fill:#1d2430}.faint{fill:#4d5766}
.curve{fill:none;stroke:#0b57b8;stroke-width:1.8;stroke-linejoin:round}
.limit{fill:none;stroke:#b3261e;stroke-width:1.4;stroke-dasharray:7 3}
.usual{fill:none;stroke:#4d5766;stroke-width:1.3;stroke-dasharray:2 3}
.mark{stroke:#1d2430;stroke-dasharray:1 2}.knob{fill:#1d2430}.number{fill:#fff}
@media (prefers-color-scheme:dark){
.ground{fill:#12161c}.frame{fill:#1a2029;stroke:#3d4756}.text{fill:#e8ecf2}.faint{fill:#aeb8c6}
.curve{stroke:#7db6ff}.limit{stroke:#ff9a8f}.usual{stroke:#aeb8c6}
.mark{stroke:#e8ecf2}.knob{fill:#e8ecf2}.number{fill:#12161c}
}
"""
_DIGEST = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
POLICY = f"default-src 'none'; style-src 'sha256-{_DIGEST}'; frame-ancestors 'none'"  # opened by itself


@dataclass(frozen=True)
class _Frame:
    """Where a curve is drawn."""

    plot: Plot
    width: int
    top: float
    high: float  # the value at the upper edge

    def x(self, at: float) -> float:
        share = (at - self.plot.start) / max(1e-9, self.plot.end - self.plot.start)
        return LEFT + min(1.0, max(0.0, share)) * (self.width - LEFT - RIGHT)

    def y(self, value: float) -> float:
        share = min(1.0, max(0.0, value / self.high))
        return self.top + PANEL - share * PANEL


def draw(plot: Plot, *, width: int = WIDE) -> str:
    """The plot as an SVG file."""
    height = TOP + len(plot.curves) * (PANEL + TITLE) + BOTTOM if plot.curves else 90
    label = escape(summary(plot), quote=True)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" class="plot" role="img" '
        f'aria-label="{label}" font-family="system-ui, sans-serif" font-size="12">'
    ]
    parts.append(f"<style>{STYLE}</style>")
    parts.append(f'<rect class="ground" width="{width}" height="{height}"/>')
    if plot.curves:
        parts += _curves(plot, width)
        parts += _marks(plot, width, height)
        parts += _time_axis(plot, width, height)
    else:
        parts += _lines_of_text(plot.told, width)
    return "".join([*parts, "</svg>"])


def summary(plot: Plot) -> str:
    """The plot in a sentence for those who do not see it."""
    if not plot.curves:
        return plot.told
    return " ".join(f"{title_of(curve)}: {course_in_words(curve)}." for curve in plot.curves)


def title_of(curve: Curve) -> str:
    """What the curve shows, for people."""
    return TITLES.get(curve.signal.name, curve.signal.name)


def course_in_words(curve: Curve) -> str:
    """Lowest, highest and newest value, the limit, and for how much of the time it was outside."""
    values = np.concatenate([each.values for each in curve.lines])
    newest = max(curve.lines, key=lambda line: line.times[-1]).values[-1]
    told = f"from {shown(curve, values.min())} to {shown(curve, values.max())}, last {shown(curve, newest)}"
    if curve.limit.times.size:
        level = float(curve.limit.values[-1])
        outside = np.mean([is_outside(curve.signal, float(value), level) for value in values])
        told += f", limit {shown(curve, level)}, outside it in {outside * 100:.0f} % of the samples"
    return told


def shown(curve: Curve, value: float) -> str:
    """A value in the unit of its signal."""
    if not math.isfinite(value):
        return "-"
    if curve.signal.name in SHARES:
        return f"{value * 100:.3g} %"
    if curve.signal is LATENCY_P95:
        return f"{value:.3g} s" if value >= 1 else f"{value * 1000:.3g} ms"
    return f"{value:.3g}"


def rows(curve: Curve) -> Iterator[tuple[float, list[str]]]:
    """The curve as a table: a time, and what each of its series was then."""
    columns = [dict(zip(each.times.tolist(), each.values.tolist(), strict=True)) for each in curve.lines]
    for at in sorted({at for column in columns for at in column}):
        yield at, [shown(curve, column[at]) if at in column else "-" for column in columns]


def moment(at: float) -> str:
    """A time of the day in UTC."""
    return datetime.fromtimestamp(at, UTC).strftime("%H:%M:%S")


def _curves(plot: Plot, width: int) -> Iterator[str]:
    for number, curve in enumerate(plot.curves):
        top = TOP + number * (PANEL + TITLE) + TITLE
        highest = _highest(curve)
        frame = _Frame(plot, width, top, highest * HEADROOM)
        yield (
            f'<text class="text" x="{LEFT}" y="{top - 6}" font-weight="600">{escape(title_of(curve))}'
            f'<tspan class="faint" font-weight="400" dx="8">{escape(_held_against(curve))}</tspan></text>'
            f'<rect class="frame" x="{LEFT}" y="{top}" width="{width - LEFT - RIGHT}" height="{PANEL}"/>'
            f'<text class="faint" x="{LEFT - 5}" y="{frame.y(highest) + 4:.1f}" text-anchor="end" '
            f'font-size="11">{escape(shown(curve, highest))}</text>'
            f'<text class="faint" x="{LEFT - 5}" y="{top + PANEL}" text-anchor="end" font-size="11">0</text>'
        )
        gap = GAP_STEPS * plot.step
        yield _path("usual", curve.baseline, frame, math.inf)
        yield _path("limit", curve.limit, frame, gap if curve.limit.times.size > 2 else math.inf)
        for line in curve.lines:
            yield _path("curve", line, frame, gap)


def _held_against(curve: Curve) -> str:
    return f"limit {shown(curve, float(curve.limit.values[-1]))}" if curve.limit.times.size else ""


def _highest(curve: Curve) -> float:
    """The highest value that is drawn; 1 where all are 0, so that a scale has a length."""
    drawn = np.concatenate([each.values for each in (*curve.lines, curve.limit, curve.baseline)])
    finite = drawn[np.isfinite(drawn)]
    highest = float(finite.max()) if finite.size else 0.0
    return highest if highest > 0 else 1.0


def _path(name: str, line: Line, frame: _Frame, gap: float) -> str:
    commands: list[str] = []
    last = -math.inf
    for at, value in zip(line.times.tolist(), line.values.tolist(), strict=True):
        if math.isnan(value):
            continue
        place = f"{frame.x(at):.1f} {frame.y(value):.1f}"
        # A sample between two gaps is a dot, not nothing: `h0` gives it a length to draw.
        commands.append(f"L{place}" if at - last <= gap and commands else f"M{place}h0")
        last = at
    if not commands:
        return ""
    return f'<path class="{name}" stroke-linecap="round" d="{"".join(commands)}"/>'


def _marks(plot: Plot, width: int, height: int) -> Iterator[str]:
    frame = _Frame(plot, width, TOP, 1.0)
    seen = [each for each in enumerate(plot.marks, start=1) if plot.start <= each[1].at <= plot.end]
    places = [frame.x(mark.at) for _, mark in seen]
    for (number, mark), x, knob in zip(seen, places, _side_by_side(places, width), strict=True):
        yield (
            f"<g><title>{escape(f'{number}. {moment(mark.at)} UTC {mark.text}')}</title>"
            f'<path class="mark" d="M{x:.1f} {TOP - 4}V{height - BOTTOM}"/>'
            f'<circle class="knob" cx="{knob:.1f}" cy="13" r="{KNOB}"/>'
            f'<text class="number" x="{knob:.1f}" y="17" text-anchor="middle" font-size="11" '
            f'font-weight="700">{number}</text></g>'
        )


def _side_by_side(places: Sequence[float], width: int) -> list[float]:
    """Where the numbers of ascending places stand: those of one moment beside each other, none cut off."""
    apart, found = 2 * KNOB + 1, list(places)
    for index in range(1, len(found)):
        found[index] = max(found[index], found[index - 1] + apart)
    edge = float(width - KNOB - 1)
    for index in reversed(range(len(found))):
        found[index] = min(found[index], edge)
        edge = found[index] - apart
    return found


def _time_axis(plot: Plot, width: int, height: int) -> Iterator[str]:
    frame = _Frame(plot, width, TOP, 1.0)
    number = 4 if width >= WIDE else 2
    for index in range(number + 1):
        at = plot.start + (plot.end - plot.start) * index / number
        anchor = {0: "start", number: "end"}.get(index, "middle")
        unit = " UTC" if index == number else ""
        yield (
            f'<text class="faint" x="{frame.x(at):.1f}" y="{height - 8}" text-anchor="{anchor}" '
            f'font-size="11">{moment(at)}{unit}</text>'
        )


def _lines_of_text(text: str, width: int) -> Iterator[str]:
    """Words in lines that fit: SVG wraps nothing by itself."""
    room, lines = (width - 24) // 7, [""]
    for word in text.split():
        if len(lines[-1]) + len(word) >= room and lines[-1]:
            lines.append("")
        lines[-1] += f"{word} "
    for number, line in enumerate(lines[:4]):
        yield f'<text class="text" x="12" y="{24 + 18 * number}">{escape(line[: room + 1].strip())}</text>'
