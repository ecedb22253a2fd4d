"""An error of the store may be logged: it quotes no value that was to be written."""

from __future__ import annotations

import traceback
from pathlib import Path

import pytest
from sqlalchemy import text

from self_healing_fabric.store import Store

CANARY = "-".join(("canary", "of", "the", "store"))


@pytest.mark.parametrize("server", ["sqlite", "postgresql"])
def test_an_error_quotes_no_value(server: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """An action keeps the configuration that it replaced, with all that is secret in it."""
    if server == "sqlite":
        store = Store(f"sqlite:///{tmp_path}/shf.db")
    else:
        store = Store(request.getfixturevalue("postgresql_url"))
    wrong = text("INSERT INTO nowhere (id, before) VALUES (:id, :before)")
    try:
        with pytest.raises(Exception, match="nowhere") as raised:
            store.write(lambda connection: connection.execute(wrong, {"id": CANARY, "before": CANARY}))
    finally:
        store.close()
    assert CANARY not in "".join(traceback.format_exception(raised.value))
