"""Targets that misbehave in a way that several strategies meet."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from dripping_server import dripping_server


@pytest.fixture
def server_that_drips() -> Iterator[str]:
    """The URL of a service whose answers come byte by byte and never end."""
    with dripping_server() as url:
        yield f"{url}/config"
