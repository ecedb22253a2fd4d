"""The schema's history. Every start brings the store to the newest version, in one transaction.

Migrations only add, so that a replica of the version before can work on beside a new one while a fleet is
replaced. There is no way back: restore a copy instead. A store that a newer version has changed is refused.
"""

from __future__ import annotations

from sqlalchemy import Connection, inspect, text

from self_healing_fabric.errors import StoreUnavailable
from self_healing_fabric.store.schema import VERSION

FIRST = "0001"  # also the version of the stores that were made before there were migrations


def migrate(connection: Connection) -> None:
    """Bring the store to `VERSION`, inside the caller's transaction.

    Raises:
        StoreUnavailable: the store is of a newer version than this program.
    """
    found = version_of(connection)
    if found == VERSION:
        return
    # Imported only when there is something to do: it doubles the time of a start.
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", "self_healing_fabric.store:migrations")
    config.attributes["connection"] = connection
    if found is None and inspect(connection).has_table("incidents"):
        command.stamp(config, FIRST)
    command.upgrade(config, VERSION)


def version_of(connection: Connection) -> str | None:
    """The store's version; None when it has none yet. Raises StoreUnavailable when it is a newer one."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    value = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    if value is not None and value > VERSION:
        raise StoreUnavailable(
            f"the store has version {value} and this program knows none after {VERSION}: use a newer program"
        )
    return None if value is None else str(value)
