"""Worlds in which a fabric heals; see `world`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from pytest_httpserver import HTTPServer

from world import World


@pytest.fixture
def make_world(tmp_path: Path, httpserver: HTTPServer) -> Iterator[Callable[..., World]]:
    """Build the world of a test with these dependencies and changed settings."""
    made: list[World] = []

    def make(depends_on: Mapping[str, Sequence[str]] | None = None, **changes: Any) -> World:
        made.append(World(tmp_path, httpserver, depends_on, **changes))
        return made[-1]

    yield make
    for world in made:
        world.close()


@pytest.fixture
def world(make_world: Callable[..., World]) -> World:
    """The world with the settings of the conftest."""
    return make_world()
