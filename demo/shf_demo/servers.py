"""Real servers as child processes: found on PATH, started, waited for, stopped.

A machine without Debian has the same programs under their upstream names, so both are looked for, and what
is missing is said all at once with the way to get it, before anything starts. A server that does not come
up is the most frequent trouble of a demo and its cause is in its own log, so the end of that log is part of
the message.
"""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

from shf_demo.errors import DemoError
from shf_demo.supervisor import end_process
from shf_demo.tether import tethered

_READY_DEADLINE = 30.0  # seconds; Prometheus needs 0.5 on an idle machine
_READY_TIMEOUT = 2.0  # seconds for one question
_STOP_GRACE = 15.0  # seconds; Prometheus writes its last block, the fabric finishes the step in hand
_LOG_TAIL = 15  # lines
_NAMES = {  # Debian's name first: both may be there, and Debian's is the one that `make demo` installs
    "Prometheus": ("prometheus",),
    "Alertmanager": ("prometheus-alertmanager", "alertmanager"),
    "blackbox exporter": ("prometheus-blackbox-exporter", "blackbox_exporter"),
}


@dataclass(frozen=True)
class Programs:
    prometheus: str
    alertmanager: str
    blackbox: str


def find_programs() -> Programs:
    """DemoError names all that are missing and how to get them; `make setup` does it where it can."""
    found = {title: _first_on_path(names) for title, names in _NAMES.items()}
    missing = [title for title, path in found.items() if path is None]
    if missing:
        packages = " ".join(_NAMES[title][0] for title in missing)
        wanted = ", ".join(f"{title} ({' or '.join(_NAMES[title])})" for title in missing)
        raise DemoError(
            f"not on PATH: {wanted}\n"
            f"Debian, Ubuntu: apt-get install --no-install-recommends {packages}\n"
            "elsewhere: Homebrew (prometheus, alertmanager, blackbox_exporter) or the release archives on "
            "prometheus.io/download; put the programs on PATH"
        )
    return Programs(*(str(path) for path in found.values()))


def _first_on_path(names: tuple[str, ...]) -> str | None:
    return next((path for name in names if (path := shutil.which(name))), None)


class Server:
    """One server process. Start it from a thread that lives as long as it should: see `tether`.

    It can be stopped or killed and started again, for tests of what happens meanwhile.
    """

    def __init__(
        self,
        name: str,
        command: list[str],
        ready_url: str,
        log: Path,
        *,
        environment: Mapping[str, str],
    ) -> None:
        self.name = name
        self.log = log
        self._command = command
        self._ready_url = ready_url
        self._environment = environment
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        if self._process is None:
            raise DemoError(f"{self.name} is not running")
        return self._process.pid

    def start(self) -> None:
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                tethered(self._command),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=dict(self._environment),
                start_new_session=True,  # Ctrl-C reaches the demo only, which then stops things in order
            )

    def wait_ready(self, deadline: float = _READY_DEADLINE) -> None:
        end = time.monotonic() + deadline
        while not _answers(self._ready_url):
            self.check_running()
            if time.monotonic() > end:
                raise DemoError(self._complaint(f"is not ready after {deadline:.0f} s"))
            time.sleep(0.05)

    def check_running(self) -> None:
        """DemoError with the end of its log when the server has ended by itself."""
        if self._process is not None and (status := self._process.poll()) is not None:
            raise DemoError(self._complaint(f"has ended with status {status}"))

    def stop(self) -> None:
        if self._process is not None:
            end_process(self._process, _STOP_GRACE)
            self._process = None

    def kill(self) -> None:
        """SIGKILL, as a crash would end it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _complaint(self, what: str) -> str:
        lines = self.log.read_text(errors="replace").splitlines()[-_LOG_TAIL:]
        tail = "\n".join(f"  {line}" for line in lines) or "  (empty)"
        return f"{self.name} {what}. The end of {self.log}:\n{tail}"


def _answers(url: str) -> bool:
    parts = urlsplit(url)
    connection = HTTPConnection(parts.hostname or "", parts.port, timeout=_READY_TIMEOUT)
    try:
        connection.request("GET", parts.path)
        return connection.getresponse().status == 200
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()
