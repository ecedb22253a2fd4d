"""Durations as people write them: ``500ms``, ``30s``, ``2m``, ``1h``, or a number of seconds.

Settings, rule parameters and the command line all take durations, and a value read in another unit than
the one meant (30 minutes for 30 seconds) is found only during an incident. So there is one parser, it
refuses what it does not know, and after validation a duration is always a float of seconds.

The trap avoided: Prometheus knows no fractions and no plain numbers in rules (``1.5m``, ``30``), people
write both. What is parsed here is Prometheus's own notation (``1h30m``, largest unit first) or a plain
number, and ``format_duration`` writes only what every Prometheus reads.
"""

import math
import re
from typing import Annotated

from pydantic import BeforeValidator

SECONDS_OF_UNIT = {"d": 86_400.0, "h": 3_600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_COMPOUND = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m(?!s))?(?:(\d+)s)?(?:(\d+)ms)?", re.ASCII)
_NUMBER = re.compile(r"\d+(?:\.\d*)?|\.\d+", re.ASCII)


def parse_duration(value: object) -> float:
    """The seconds meant by ``value``; ValueError when it is no finite duration from zero up."""
    seconds: float | None = None
    # bool is an int: `interval: yes` in YAML must not become one second
    if isinstance(value, int | float) and not isinstance(value, bool):
        seconds = float(value)
    elif isinstance(value, str):
        seconds = _seconds_of_text(value.strip())
    if seconds is None or not math.isfinite(seconds) or seconds < 0:
        raise ValueError(f"{value!r} is not a duration: use for example 500ms, 30s, 2m, 1h")
    return seconds


def _seconds_of_text(text: str) -> float | None:
    if _NUMBER.fullmatch(text):
        return float(text)
    compound = _COMPOUND.fullmatch(text)
    if not text or compound is None:
        return None
    parts = zip(compound.groups(), SECONDS_OF_UNIT.values(), strict=True)
    return sum(float(count) * unit for count, unit in parts if count is not None)


def format_duration(seconds: float) -> str:
    """``seconds`` as Prometheus writes durations, in the largest unit that divides it: 30s, 1m, 6h, 500ms."""
    milliseconds = round(seconds * 1000)
    if seconds > 0 and milliseconds == 0:
        raise ValueError(f"{seconds!r} seconds is less than 1ms, the shortest duration of Prometheus")
    if milliseconds == 0:
        return "0s"
    for unit, size in SECONDS_OF_UNIT.items():
        count, rest = divmod(milliseconds, round(size * 1000))
        if rest == 0:
            return f"{count}{unit}"
    raise AssertionError("every whole number of milliseconds is divisible by 1ms")


def duration_in_words(seconds: float) -> str:
    """``seconds`` for people, in the two largest units: "3 minutes 5 seconds", "2 days 4 hours"."""
    rest, told = max(0, round(seconds)), []
    for name, size in (("day", 86_400), ("hour", 3_600), ("minute", 60), ("second", 1)):
        count, rest = divmod(rest, size)
        if count:
            told.append(f"{count} {name}{'' if count == 1 else 's'}")
        elif told:
            break  # nobody says "2 days 5 seconds"
    return " ".join(told[:2]) or "less than a second"


Duration = Annotated[float, BeforeValidator(parse_duration)]
"""A pydantic field that takes what ``parse_duration`` takes and holds seconds."""
