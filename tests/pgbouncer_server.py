"""A real PgBouncer before the tests' PostgreSQL, on a port of its own, with nothing set but how it pools."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from sqlalchemy import make_url

from postgresql_server import ACCOUNT, account
from shf_demo.ports import reserved_ports
from shf_demo.tether import tethered

READY_DEADLINE = 30.0  # seconds


class PgbouncerMissing(Exception):
    """There is none here; the text says what to install."""


@contextlib.contextmanager
def pgbouncer(url: str, pool_mode: str, **settings: int) -> Iterator[str]:
    """Run one; yields the URL of the same database through it. Raises PgbouncerMissing."""
    program = shutil.which("pgbouncer")
    if program is None:
        raise PgbouncerMissing("pgbouncer is not on PATH (Debian, Ubuntu: pgbouncer)")
    server = make_url(url)
    with tempfile.TemporaryDirectory(prefix="shf-pgbouncer-") as name, reserved_ports(1) as (port,):
        folder = Path(name)
        file, users, log = folder / "pgbouncer.ini", folder / "users", folder / "log"
        users.write_text(f'"{server.username}" ""\n')
        more = "".join(f"{name} = {value}\n" for name, value in settings.items())
        file.write_text(
            f"[databases]\n* = host={server.host} port={server.port}\n"
            f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n"
            f"auth_type = trust\nauth_file = {users}\npool_mode = {pool_mode}\n{more}"
        )
        command = [program, str(file)]
        if account() is not None:  # like PostgreSQL, it does not run as root
            folder.chmod(0o755)
            command[1:1] = ["-u", ACCOUNT]
        with log.open("wb") as output:
            process = subprocess.Popen(
                tethered(command), stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )
        try:
            _wait_ready(port, process, log)
            yield server.set(port=port).render_as_string(hide_password=False)
        finally:
            process.kill()
            process.wait()


def _wait_ready(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + READY_DEADLINE
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        if process.poll() is not None or time.monotonic() > end:
            raise RuntimeError(f"PgBouncer is not ready:\n{log.read_text()}")
        time.sleep(0.02)
