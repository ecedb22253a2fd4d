"""Opening the store: settings that survive a power cut, one process at a time, and faults as sentences."""

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from self_healing_fabric.errors import StoreInUse, StoreUnavailable
from self_healing_fabric.store import Store, sqlite, statements

HOLDER = """
import sys, time
from self_healing_fabric.store import Store
store = Store(sys.argv[1])
print("open", flush=True)
time.sleep(600)
"""


@pytest.fixture
def url(tmp_path: Path) -> str:
    """A SQLite file that does not exist yet."""
    return f"sqlite:///{tmp_path / 'shf.db'}"


@pytest.fixture
def holder(url: str) -> Iterator["subprocess.Popen[str]"]:
    """Another process that has the store open."""
    process = subprocess.Popen([sys.executable, "-c", HOLDER, url], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "open\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_second_process_is_kept_out(holder: "subprocess.Popen[str]", url: str) -> None:
    """Two orchestrators on one file would both heal."""
    with pytest.raises(StoreInUse, match=r"shf\.db\.lock: another fabric uses this store"):
        Store(url)
    assert holder.poll() is None


def test_the_lock_ends_with_the_process_however_it_dies(holder: "subprocess.Popen[str]", url: str) -> None:
    """After kill -9 the next process gets in without anybody removing a file."""
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    Store(url).close()


def test_a_closed_store_lets_the_next_one_in(url: str) -> None:
    """Closing gives the lock back."""
    Store(url).close()
    Store(url).close()


def test_every_connection_has_the_settings_that_survive_a_power_cut(store: Store) -> None:
    """WAL, FULL (2) and foreign keys hold for the writer and for readers."""
    for run in (store.write, store.read):
        pragmas = {
            name: run(lambda connection, name=name: connection.exec_driver_sql(f"PRAGMA {name}").scalar())
            for name in ("journal_mode", "synchronous", "foreign_keys")
        }
        assert pragmas == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1}


def test_others_of_the_machine_cannot_read_a_new_store(tmp_path: Path, url: str) -> None:
    """Whoever reads the key of the approval links can approve; a file that is there stays as it was set."""
    before = os.umask(0o022)
    try:
        with closing(Store(url)):
            modes = {each.name: each.stat().st_mode & 0o777 for each in tmp_path.glob("shf.db*")}
    finally:
        os.umask(before)
    assert modes == dict.fromkeys(("shf.db", "shf.db-wal", "shf.db-shm", "shf.db.lock"), 0o600)
    (tmp_path / "shf.db").chmod(0o640)
    Store(url).close()
    assert (tmp_path / "shf.db").stat().st_mode & 0o777 == 0o640


def test_a_missing_folder_is_made(tmp_path: Path) -> None:
    """The first start needs no mkdir."""
    Store(f"sqlite:///{tmp_path / 'a' / 'b' / 'shf.db'}").close()
    assert (tmp_path / "a" / "b" / "shf.db").is_file()


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Somebody's sqlite3 shell holds the write lock."""
    with closing(sqlite3.connect(path, isolation_level=None)) as shell:
        shell.execute("BEGIN IMMEDIATE")
        yield
        shell.execute("ROLLBACK")


def test_a_database_that_stays_locked_is_unavailable_and_recovers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Longer than the busy timeout: nothing is stored and the caller hears it; afterwards writes work."""
    monkeypatch.setattr(sqlite, "BUSY_TIMEOUT", 0.05)
    store = Store(f"sqlite:///{tmp_path / 'shf.db'}")

    def write(name: str) -> None:
        store.write(lambda c: statements.set_control(c, name=name, value="1", by="me", now=1.0))

    with locked(tmp_path / "shf.db"):
        with pytest.raises(StoreUnavailable, match="locked"):
            write("a")
        assert store.read(lambda connection: statements.control(connection, "a")) is None
    write("b")
    assert store.read(lambda connection: statements.control(connection, "a")) is None
    assert store.read(lambda connection: statements.control(connection, "b")) is not None
    store.close()


def anew(path: Path) -> None:
    """Put an empty store where the other one was, as somebody does who restores a copy."""
    Store(f"sqlite:///{path.parent / 'copy.db'}").close()
    (path.parent / "copy.db").replace(path)


@pytest.mark.parametrize(
    ("name", "change"),
    [("shf.db", anew), ("shf.db", Path.unlink), ("shf.db.lock", Path.unlink)],
    ids=["replaced", "removed", "lock removed"],
)
def test_nothing_is_acknowledged_into_a_file_that_is_not_in_its_place(
    tmp_path: Path, name: str, change: Callable[[Path], None]
) -> None:
    """It would be gone with the process; put back, all is as it was and goes on."""
    store, path = Store(f"sqlite:///{tmp_path / 'shf.db'}"), tmp_path / name
    store.inbox.put(b"before", 1.0)
    os.link(path, tmp_path / "kept")
    change(path)
    for attempt in (lambda: store.inbox.put(b"lost", 2.0), lambda: store.read(statements.count_inbox)):
        with pytest.raises(StoreUnavailable, match=f"{name} was removed or replaced .* restart the fabric"):
            attempt()
    (tmp_path / "kept").replace(path)
    store.inbox.put(b"after", 3.0)
    assert store.read(statements.count_inbox) == (2, 0)
    store.close()


def test_a_file_that_is_no_database_is_unavailable_and_keeps_no_lock(tmp_path: Path) -> None:
    """The text names the file, and the lock is free again for the repaired one."""
    path = tmp_path / "shf.db"
    path.write_bytes(b"this is not a database, and it is long enough to be sure" * 100)
    with pytest.raises(StoreUnavailable, match=r"shf\.db: cannot be opened: file is not a database"):
        Store(f"sqlite:///{path}")
    path.unlink()
    Store(f"sqlite:///{path}").close()


def test_a_folder_that_cannot_be_made_is_unavailable(tmp_path: Path) -> None:
    """A file where a folder should be is told as such, not as an OSError."""
    (tmp_path / "file").touch()
    with pytest.raises(StoreUnavailable, match="cannot be opened"):
        Store(f"sqlite:///{tmp_path / 'file' / 'shf.db'}")


@pytest.mark.parametrize("name", ["shf.db-wal", "shf.db-shm"])
def test_nothing_is_acknowledged_into_a_log_that_is_not_in_its_place(
    tmp_path: Path, url: str, name: str
) -> None:
    """SQLite goes on writing into its removed files, and a kill takes all of it along; a stop saves it."""
    store = Store(url)
    store.inbox.put(b"before", 1.0)
    (tmp_path / name).unlink()
    for attempt in (lambda: store.inbox.put(b"lost", 2.0), lambda: store.read(statements.count_inbox)):
        with pytest.raises(StoreUnavailable, match=f"{name} was removed or replaced .* do not kill it"):
            attempt()
    store.close()
    again = Store(url)
    assert again.read(statements.count_inbox) == (1, 0)
    again.inbox.put(b"after", 3.0)
    again.close()
