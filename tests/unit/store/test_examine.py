"""Looking at a store before it is used: what is there and what is wrong, without changing anything."""

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import create_engine, inspect, make_url, text

from self_healing_fabric.errors import StoreUnavailable
from self_healing_fabric.store import Store, examine, look, schema
from self_healing_fabric.store.migrations import version_of

FIRST_RELEASE = Path(__file__).parents[2] / "data" / "store-0.1.0.sql"


def test_a_store_in_use_is_looked_at_beside_its_fabric(store: Store, url: str) -> None:
    """Its version is told while the fabric runs, and the fabric does not notice."""
    assert f"version {schema.VERSION}" in examine(url)
    store.write(lambda _: None)


def test_a_newer_store_is_told(url: str, new_postgresql_url: Callable[[], str]) -> None:
    """By the same words with which it would be refused."""
    mine = url if url.startswith("sqlite") else new_postgresql_url()
    Store(mine).close()
    engine = create_engine(mine)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    engine.dispose()
    with pytest.raises(StoreUnavailable, match=r"the store has version 9999.*use a newer program"):
        examine(mine)


def test_a_file_that_does_not_exist_is_not_made(tmp_path: Path) -> None:
    """Nor its folder."""
    assert examine(f"sqlite:///{tmp_path / 'a' / 'shf.db'}") == "will be created"
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_one_is_told(tmp_path: Path) -> None:
    """A file where the folder should be."""
    (tmp_path / "file").touch()
    with pytest.raises(StoreUnavailable, match=r"does not exist and .*file cannot be written"):
        examine(f"sqlite:///{tmp_path / 'file' / 'shf.db'}")


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="this system has no /proc")
def test_a_place_that_holds_no_files_is_told() -> None:
    """Even root makes nothing there, though it may write."""
    with pytest.raises(StoreUnavailable, match=r"does not exist and /proc (has no room|cannot be written)"):
        examine("sqlite:////proc/nope/shf.db")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_looked_into_is_told(tmp_path: Path) -> None:
    """As one in which nothing can be made."""
    (tmp_path / "closed").mkdir(mode=0o000)
    with pytest.raises(StoreUnavailable, match="closed cannot be written"):
        examine(f"sqlite:///{tmp_path / 'closed' / 'shf.db'}")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_file_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    """A mount that is read-only."""
    Store(f"sqlite:///{tmp_path / 'shf.db'}").close()
    (tmp_path / "shf.db").chmod(0o400)
    with pytest.raises(StoreUnavailable, match="must be writable"):
        examine(f"sqlite:///{tmp_path / 'shf.db'}")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_who_may_only_read_is_told_when_that_is_enough(tmp_path: Path) -> None:
    """Beside a running fabric it is; a store that nobody has open SQLite does not read without writing."""
    folder = tmp_path / "store"
    url = f"sqlite:///{folder / 'shf.db'}"
    with closing(Store(url)):
        folder.chmod(0o500)
        (folder / "shf.db").chmod(0o400)
        assert look(url, version_of) == schema.VERSION
        folder.chmod(0o700)
    folder.chmod(0o500)
    try:
        with pytest.raises(StoreUnavailable, match=r"store/shf\.db may only be read by this user.* a copy"):
            look(url, version_of)
    finally:
        folder.chmod(0o700)


def test_a_store_of_the_first_release_is_not_migrated_by_looking(tmp_path: Path) -> None:
    """It has no version of its own."""
    path = tmp_path / "shf.db"
    with closing(sqlite3.connect(path)) as shell:
        shell.executescript(FIRST_RELEASE.read_text(encoding="utf-8"))
    before = path.read_bytes()
    assert examine(f"sqlite:///{path}") == "version of 0.1.0 or none"
    assert path.read_bytes() == before


def test_what_is_no_database_is_told(tmp_path: Path) -> None:
    """With its name."""
    path = tmp_path / "shf.db"
    path.write_bytes(b"this is not a database, and it is long enough to be sure" * 100)
    with pytest.raises(StoreUnavailable, match=r"shf\.db: file is not a database"):
        examine(f"sqlite:///{path}")


def test_an_empty_database_is_told_and_left_empty(new_postgresql_url: Callable[..., str]) -> None:
    """On PostgreSQL, with the server's version."""
    url = new_postgresql_url(empty=True)
    assert examine(url).startswith("PostgreSQL 1")
    assert examine(url).endswith("version none yet")
    engine = create_engine(url)
    with engine.connect() as connection:
        assert inspect(connection).get_table_names() == []
    engine.dispose()


def test_an_account_that_may_not_make_tables_is_told(new_postgresql_url: Callable[..., str]) -> None:
    """Before the first start fails with words about schemas."""
    url = new_postgresql_url(empty=True)
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(text("DROP ROLE IF EXISTS poor"))
        connection.execute(text("CREATE ROLE poor LOGIN"))
        connection.execute(text("REVOKE CREATE ON SCHEMA public FROM public"))
    poor = make_url(url).set(username="poor").render_as_string()
    with pytest.raises(StoreUnavailable, match="may not create tables"):
        examine(poor)
    with pytest.raises(StoreUnavailable, match="permission denied"):
        Store(poor)
    with engine.begin() as connection:
        connection.execute(text("DROP ROLE poor"))
    engine.dispose()


def test_a_database_that_is_missing_is_told_without_the_password(postgresql_url: str, tmp_path: Path) -> None:
    """Whether the password stands in the URL or in a file."""
    (tmp_path / "password").write_text("secret-in-file")
    url = make_url(postgresql_url).set(database="nowhere", password="secret-in-url")
    for file in (None, tmp_path / "password"):
        with pytest.raises(StoreUnavailable, match='"nowhere" does not exist') as info:
            examine(url.render_as_string(hide_password=False), file)
        assert "secret" not in str(info.value)
    with pytest.raises(StoreUnavailable, match="nothing cannot be read"):
        examine(postgresql_url, tmp_path / "nothing")
