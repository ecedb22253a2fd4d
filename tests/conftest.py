"""For tests of every kind: one PostgreSQL for the whole run, in which each test makes its own database.

pytest puts this folder on the path of imports, so that tests of all folders can share the modules beside it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import count
from typing import Any

import pytest
import structlog
from hypothesis import settings

import counted
from postgresql_server import (
    HEAD_OF_THE_CHAIN,
    PUT_THERE_BY_MIGRATIONS,
    PostgresqlMissing,
    PostgresqlServer,
    temporary_postgresql,
)
from self_healing_fabric.store import Store

# How long an example takes says something of the machine, not of the product.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

TEMPLATE, SHARED = "migrated", "emptied"  # databases
_numbers = count()


@pytest.fixture(scope="session", autouse=True)
def _loggers_follow_their_configuration() -> Iterator[None]:
    """One that is kept writes as it was configured by whichever test came first, and is never captured."""
    configure = structlog.configure

    def unkept(**options: Any) -> None:
        configure(**{**options, "cache_logger_on_first_use": False})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(structlog, "configure", unkept)
        yield


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgresqlServer]:
    """The server, running. Who stops or freezes it brings it back, or has one of his own."""
    with ExitStack() as stack:
        try:
            server = stack.enter_context(temporary_postgresql())
        except PostgresqlMissing as error:
            if os.environ.get("CI"):
                raise
            pytest.skip(f"NOT TESTED ON POSTGRESQL: {error}")
        yield server


@pytest.fixture(scope="session")
def migrated(postgresql: PostgresqlServer) -> str:
    """The name of a database with the newest schema and nothing in it, to make others from."""
    Store(postgresql.create_database(TEMPLATE)).close()
    return TEMPLATE


@pytest.fixture(scope="session")
def _shared(postgresql: PostgresqlServer, migrated: str) -> str:
    postgresql.create_database(SHARED, migrated)
    return SHARED


@pytest.fixture
def postgresql_url(postgresql: PostgresqlServer, _shared: str) -> str:
    """The URL of a database with the newest schema and no rows. Who changes its schema makes a new one."""
    return postgresql.empty_database(_shared, keep=PUT_THERE_BY_MIGRATIONS, then=HEAD_OF_THE_CHAIN)


@pytest.fixture
def new_postgresql_url(postgresql: PostgresqlServer, migrated: str) -> Iterator[Callable[..., str]]:
    """Make a database for this test alone, with the newest schema or `empty`; returns its URL."""
    made: list[str] = []

    def make(*, empty: bool = False) -> str:
        made.append(f"test{next(_numbers)}")
        return postgresql.create_database(made[-1], "template1" if empty else migrated)

    yield make
    for name in made:
        postgresql.drop_database(name)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Where this is one of several processes: hand over what was counted."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput[counted.KEY] = counted.LINES


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take over what a process has counted; one that broke down has nothing to say."""
    counted.LINES.extend(getattr(node, "workeroutput", {}).get(counted.KEY, ()))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what was counted."""
    for line in counted.LINES:
        terminalreporter.write_line(line)
