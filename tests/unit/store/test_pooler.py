"""PostgreSQL behind a real PgBouncer: a session for each connection is enough, a shared one is refused."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from typing import Any

import psycopg
import pytest
from sqlalchemy import text

from deadline import within_deadline
from pgbouncer_server import PgbouncerMissing, pgbouncer
from self_healing_fabric.errors import StoreUnavailable
from self_healing_fabric.incidents.audit import head
from self_healing_fabric.store import Store, examine, look, postgresql, statements

DEADLINES = {"statement_timeout": "8s", "lock_timeout": "5s", "idle_in_transaction_session_timeout": "4s"}


@pytest.fixture
def through(postgresql_url: str) -> Iterator[Callable[..., str]]:
    """Start a PgBouncer with that pool mode; returns the URL of the database behind it."""
    with ExitStack() as running:

        def start(pool_mode: str, **settings: Any) -> str:
            try:
                return running.enter_context(pgbouncer(postgresql_url, pool_mode, **settings))
            except PgbouncerMissing as error:
                if os.environ.get("CI"):
                    raise
                pytest.skip(f"NOT TESTED BEHIND PGBOUNCER: {error}")

        yield start


def test_a_pooler_that_keeps_sessions_needs_no_settings(through: Callable[[str], str]) -> None:
    """PgBouncer as it is shipped: the store opens, and every connection has its deadlines."""
    url = through("session")
    assert "PostgreSQL" in examine(url)
    with closing(Store(url)) as store:
        store.write(lambda c: statements.set_control(c, name="a", value="1", by="test", now=1.0))
        for run in (store.read, store.write):
            found = {
                name: run(lambda c, name=name: c.execute(text(f"SHOW {name}")).scalar()) for name in DEADLINES
            }
            assert found == DEADLINES


def test_a_pooler_that_shares_sessions_is_refused_with_what_to_do(through: Callable[[str], str]) -> None:
    """By `shf check` and at the start, before anything is written: later, statements fail at random."""
    url = through("transaction")
    for attempt in (lambda: examine(url), lambda: Store(url).close()):
        with pytest.raises(StoreUnavailable, match=r"shares .* pool_mode = session"):
            attempt()


def test_a_pooler_whose_sessions_are_all_in_use_is_told(
    through: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes every connection and answers none: `shf check`, `shf audit` and the start waited for ever."""
    monkeypatch.setattr(postgresql, "TRANSACTION_TIMEOUT", 1.0)
    url = through("session", default_pool_size=1, query_wait_timeout=0)
    with psycopg.connect(url.replace("+psycopg", "")) as others:
        others.execute("SELECT 1")
        for attempt in (lambda: examine(url), lambda: Store(url).close(), lambda: look(url, head)):
            with pytest.raises(StoreUnavailable, match=r"does not answer.* in use.*default_pool_size"):
                within_deadline(attempt)
