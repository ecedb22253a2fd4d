"""How a statement is executed for rows of which there is mostly one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Executable


def execute_for(connection: Connection, statement: Executable, rows: Sequence[Mapping[str, Any]]) -> None:
    """Execute the statement for each row, at least one; a single row by itself, for the way of many costs
    a quarter more."""
    connection.execute(statement, rows[0] if len(rows) == 1 else rows)
