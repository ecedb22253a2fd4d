"""Which story is told for a point, and where in it the processes die: all of it follows from point and seed.

Each point is told CRASH_SEEDS times: once in `make test`, four times in `make crash`, or as often as is set.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pytest
from crew import Crew, Job, Told
from points import BEFORE_REQUEST, COMMITTED, PRECEDED, STOPPING, UNDER_WAY, WAYS, split_name
from stories import EFFECT_TIMEOUT

Reached = Mapping[str, Mapping[str, int]]  # story -> point -> how often it is come by without any death

SEEDS = int(os.environ.get("CRASH_SEEDS", "1"))
SPEED = 20.0  # virtual seconds in a real one, where the threads are real
THREADS_EVERY = 4  # one of so many seeds lets the threads run
AGAIN = 0.35  # how likely the next process dies too
_ANYWHERE = ("claim", "action announced", "action ended", "notifications worked in")


def points_asked_for(request: pytest.FixtureRequest) -> list[str]:
    """The points whose tests of the same module are to run."""
    items = (item for item in request.session.items if isinstance(item, pytest.Function))
    here = [item for item in items if item.module is request.module and hasattr(item, "callspec")]
    return [item.callspec.params["point"] for item in here]


def hand_over(
    crew: Crew, points: Iterable[str], seeds: Iterable[int], reached: Reached, **options: Any
) -> Told:
    """Have all stories told that belong to these points."""
    seeds = tuple(seeds)
    return {
        point: [crew.begin(*jobs_for(point, seed, reached, **options)) for seed in seeds] for point in points
    }


def jobs_for(point: str, seed: int, reached: Reached, **options: Any) -> Sequence[Job]:
    """The story with its deaths, and the same one told more simply should the point not be come by."""
    dice = random.Random(f"{point} {seed}")  # noqa: S311 - the same story for the same seed
    threads = seed % THREADS_EVERY == THREADS_EVERY - 1
    needed = PRECEDED.get(point, (point,)) if point not in STOPPING else ()
    stories = sorted(name for name, counts in reached.items() if all(counts.get(each) for each in needed))
    name = dice.choice(stories)
    job = {"story": name, "seed": f"{point} {seed}", "speed": SPEED if threads else 0.0, **options}
    if split_name(point) == ("inbox", COMMITTED) and seed % 2:
        job["lossy"] = True  # nobody sends it again: what stands in the inbox must do
    first = _lives(point, name, reached, dice)
    simple = [
        {**life, "kill": {**life["kill"], "occurrence": 1}, "stop_after": life.get("stop_after") and 1}
        for life in first
    ]
    return (
        {**job, "lives": [*first, *_more(point, dice)]},
        {**job, "lives": first, "speed": 0.0},
        *(
            {**job, "lives": simple, "speed": 0.0, "story": other, "seed": f"{point} {seed} {again}"}
            for again, other in enumerate((name, *stories, name))
        ),
    )


def _lives(point: str, story: str, reached: Reached, dice: random.Random) -> list[dict[str, Any]]:
    """The deaths that have to be, in order."""
    counts = reached[story]
    if point in STOPPING:
        claims = counts["claim, committed"]
        return [{"kill": _kill(point, 1, dice), "stop_after": dice.randint(1, claims // 2), "must": True}]
    if point in PRECEDED:
        before = dice.choice(PRECEDED[point])
        first = _kill(before, dice.randint(1, counts[before]), dice)
        return [{"kill": first, "must": True}, {"kill": _kill(point, 1, dice), "must": True}]
    # Later ones are less certain to come when the dice fall otherwise.
    occurrence = dice.randint(1, max(1, counts[point] * 2 // 3))
    return [{"kill": _kill(point, occurrence, dice), "must": True}]


def _more(point: str, dice: random.Random) -> list[dict[str, Any]]:
    """Further deaths in a row, should the processes come by."""
    lives: list[dict[str, Any]] = []
    while dice.random() < AGAIN and len(lives) < 3:
        name = f"{dice.choice(_ANYWHERE)}, {dice.choice(('before the commit', 'committed'))}"
        other = dice.choice(
            (point, point, name, f"{dice.choice(WAYS)}, committed", BEFORE_REQUEST, UNDER_WAY)
        )
        lives.append({"kill": _kill(other, dice.randint(1, 3), dice)})
        if dice.random() < 0.2:
            lives.append({"stop_after": dice.randint(1, 6)})
    return lives


def _kill(point: str, occurrence: int, dice: random.Random) -> dict[str, Any]:
    hold = dice.choice((dice.uniform(0.0, EFFECT_TIMEOUT), EFFECT_TIMEOUT))
    return {"point": point, "occurrence": occurrence, "hold": hold}
