"""Tells stories one after the other, each with its deaths. One thread, so that it can fork at any time.

    python launcher.py          reads stories to tell, writes their reports, each a line of JSON

Everything is imported here, once; a life is a fork and costs some milliseconds. Python's fork server would do
the same but for the children's exit: a child of ours is told by its parent's `waitpid` how it really died.
"""

from __future__ import annotations

import functools
import gc
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
from pathlib import Path
from typing import Any

import httpx
from board import START, Board
from judge import durable_alerts, judge
from life import FAILED, OVER, STOPPED, Life
from points import POINTS, Kill
from sqlalchemy import NullPool, create_engine, text
from sqlalchemy.engine import make_url
from stories import story
from target import TargetProcess

from postgresql_server import HEAD_OF_THE_CHAIN, PUT_THERE_BY_MIGRATIONS
from self_healing_fabric.store import Store
from self_healing_fabric.store.schema import metadata

MOST_LIVES = 12  # of one story
LOG_TAIL = 60  # lines


class Launcher:
    """One board and one target, for one story at a time."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._board = Board()
        self._target = TargetProcess(self._board)
        self._number = 0
        self._database: str | None = None
        # A context of TLS costs 50 ms, and every client makes one, also for http: children inherit this one.
        context = httpx.create_ssl_context()
        httpx._transports.default.create_ssl_context = functools.cache(lambda **_: context)  # type: ignore
        self._empty = folder / "empty.db"
        Store(f"sqlite:///{self._empty}").close()
        httpx.Client(trust_env=False).close()  # imports more
        assert threading.active_count() == 1
        gc.disable()  # lives are short
        gc.freeze()

    def tell(self, job: dict[str, Any]) -> dict[str, Any]:
        """Tell a story; what became of it."""
        begun = time.monotonic()
        self._number += 1
        name = f"{self._number}"
        folder = self._folder / name
        folder.mkdir()
        url = self._make_store(job.get("postgresql"), folder)
        told = _Told(job, folder, url, self._board, self._target, name)
        report = told.tell()
        report["seconds"] = time.monotonic() - begun
        if report["problems"]:
            log = (
                (folder / "log").read_text(errors="replace").splitlines() if (folder / "log").exists() else []
            )
            report["log"] = log[-LOG_TAIL:]
        else:
            shutil.rmtree(folder)
        return report

    def _make_store(self, server: dict[str, str] | None, folder: Path) -> str:
        if server is None:
            shutil.copyfile(self._empty, folder / "shf.db")
            return f"sqlite:///{folder / 'shf.db'}"
        # One database, emptied: to drop one makes the server write all that it has to the disk.
        url = make_url(server["url"]).set(database=f"crash_{os.getpid()}")
        if self._database is None:
            self._database = url.render_as_string(hide_password=False)
            engine = create_engine(server["url"], isolation_level="AUTOCOMMIT", poolclass=NullPool)
            with engine.connect() as connection:
                template = server["template"]
                connection.execute(text(f'CREATE DATABASE "{url.database}" TEMPLATE "{template}"'))
                # The server does not die here, only its clients: what it wrote need not be on the disk.
                connection.execute(text(f'ALTER DATABASE "{url.database}" SET synchronous_commit = off'))
        with create_engine(self._database, poolclass=NullPool).begin() as connection:
            connection.execute(text("SET LOCAL session_replication_role = replica"))  # without triggers
            for name in metadata.tables:
                kept = PUT_THERE_BY_MIGRATIONS.get(name, "false")
                connection.execute(text(f"DELETE FROM {name} WHERE NOT ({kept})"))  # noqa: S608 - names of ours
            connection.execute(text(HEAD_OF_THE_CHAIN))
        return self._database


class _Told:
    """One story while it is told."""

    def __init__(
        self,
        job: dict[str, Any],
        folder: Path,
        url: str,
        board: Board,
        target: TargetProcess,
        name: str,
    ) -> None:
        self._job, self._folder, self._board, self._target, self._name = job, folder, board, target, name
        self._dice = random.Random(job["seed"])  # noqa: S311 - a story must be told again alike
        self._story = story(job["story"], self._dice)
        if job.get("lossy"):
            object.__setattr__(self._story, "resend", False)
        board.clear(speed=job.get("speed", 0.0))
        self._story.prepare(board)
        self._life = Life(self._story, board, folder, self._dice, target=f"{target.url}/{name}", store=url)
        self._engine = create_engine(url, poolclass=NullPool)
        self._durable: set[tuple[str, str]] = set()
        self._deaths: list[str] = []
        self._problems: list[str] = []
        self._cpu = 0.0

    def tell(self) -> dict[str, Any]:
        lives = list(self._job["lives"])
        for number in range(MOST_LIVES):
            plan = lives[number] if number < len(lives) else {}
            kill = Kill(**plan["kill"]) if plan.get("kill") else None
            if self._ends(self._life.fork(kill, plan.get("stop_after"))):
                break
            self._dice.random()  # the next life throws other dice
        else:
            self._problems.append(f"not over after {MOST_LIVES} lives")
        effects = self._target.record(self._name)
        with self._engine.connect() as connection:
            verdict = judge(self._story, connection, self._folder, effects, self._durable)
        return {
            "deaths": self._deaths,
            "problems": self._problems + verdict.problems,
            "effects": len(effects),
            "indeterminate": verdict.indeterminate,
            "reached": {POINTS[index]: count for index, count in self._board.reached().items()},
            "cpu": self._cpu,
            "virtual": self._board.now() - START,
        }

    def _ends(self, pid: int) -> bool:
        """Whether the story is over with this life."""
        _, status, used = os.wait4(pid, 0)
        self._cpu += used.ru_utime + used.ru_stime
        if os.WIFSIGNALED(status):
            point = self._board.take_death()
            number = os.WTERMSIG(status)
            if number != signal.SIGKILL or point is None:
                self._problems.append(f"a life was ended by {signal.Signals(number).name}")
                return True
            self._deaths.append(POINTS[point])
            with self._engine.connect() as connection:
                self._durable |= durable_alerts(connection)
            return False
        code = os.WEXITSTATUS(status)
        if code not in (OVER, STOPPED):
            self._problems.append("a life failed" if code == FAILED else f"a life ended with status {code}")
            return True
        return code == OVER


def main() -> None:
    with tempfile.TemporaryDirectory(dir=sys.argv[1]) as name:
        launcher = Launcher(Path(name))
        for line in sys.stdin:
            try:
                report = launcher.tell(json.loads(line))
            except Exception:  # noqa: BLE001 - the reader of the report is told
                report = {"problems": [traceback.format_exc()]}
            print(json.dumps(report), flush=True)


if __name__ == "__main__":
    main()
