"""A machine of its own for what the documentation tells readers to type: network, processes, /etc.

Commands are run as they are printed, with the usual ports and paths, so they need a place where these are
free and where nothing that they do stays: Linux namespaces, which need no engine and, where the kernel allows
it, no root. /etc, /var, /opt and /srv are what they are outside until something is written there; that is
gone with the sandbox, and so is every process, for the first one of a process namespace takes the others with
it.

There is no way out: what would fetch something from elsewhere fails at once.
"""

from __future__ import annotations

import os
import selectors
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from documented import ROOT
from shf_demo.servers import find_programs
from shf_demo.tether import tethered

WRITABLE = ("etc", "var", "opt", "srv", "root", "home")
_UNSHARE = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
_BEGIN = r"""
set -e
mount -t tmpfs tmpfs /mnt
for folder in $FOLDERS; do
    mkdir -p "/mnt/$folder/upper" "/mnt/$folder/work"
    mount -t overlay overlay \
        -o "lowerdir=/$folder,upperdir=/mnt/$folder/upper,workdir=/mnt/$folder/work" "/$folder"
done
"$PYTHON" - <<'END'
import fcntl, socket, struct
UP_AND_RUNNING, SIOCSIFFLAGS = 0x41, 0x8914
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
    fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sh", b"lo", UP_AND_RUNNING))
END
rm -rf /etc/prometheus /etc/alertmanager # what a package left there is not what a page speaks of
mkdir -p /etc/prometheus /etc/alertmanager
cd "$HOME"
exec bash --norc --noprofile
"""
_PATIENCE = 90.0  # seconds for one command; a deadline for busy machines


class SandboxMissing(Exception):
    """This machine gives no namespaces; the text says what it answered."""


class CommandFailed(Exception):
    """A command ended with another status than it should, or not at all; the text shows what it printed."""


class Sandbox:
    """A shell in namespaces of its own. What one command sets (a folder, a variable) holds for the next."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self._tools = home.parent / f"{home.name}-tools"
        self._shell: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.home.mkdir(exist_ok=True)
        self._write_tools()
        prefix = [] if os.geteuid() == 0 else ["--map-root-user"]
        self._shell = subprocess.Popen(
            tethered([*_UNSHARE, *prefix, "bash", "-c", _BEGIN]),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=self._environment(),
            start_new_session=True,
        )
        try:
            self.run("true")
        except CommandFailed as error:
            self.__exit__(None, None, None)
            raise SandboxMissing(str(error)) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._shell is not None and self._shell.stdin is not None and self._shell.stdout is not None:
            self._shell.kill()
            self._shell.wait()
            self._shell.stdin.close()
            self._shell.stdout.close()
            self._shell = None

    def run(self, command: str, *, status: int = 0, patience: float = _PATIENCE) -> str:
        """Run a command, as pasted, and return all that it printed. Raises CommandFailed."""
        mark = f"--- ended {time.monotonic_ns()}"
        output = self._ask(f"{{ {command}\n}} < /dev/null\necho '{mark}' $?\n", mark, patience)
        text, _, ended = output.rpartition(mark)
        if int(ended) != status:
            raise CommandFailed(f"ended with {int(ended)} instead of {status}:\n{text}")
        return text

    def serve(self, command: str, ready: str, log: str) -> None:
        """Start what runs until it is stopped, as in another terminal, and wait until `ready` answers 2xx.

        Raises CommandFailed with the end of its log.
        """
        self.run(f"( {command}\n) > {log} 2>&1 &")
        self.run(
            f"for _ in $(seq 300); do curl -fsS -o /dev/null {ready} 2> /dev/null && break; sleep 0.1; done;"
            f" curl -fsS -o /dev/null {ready} || {{ tail -n 20 {log}; false; }}"
        )

    def _ask(self, text: str, mark: str, patience: float) -> str:
        assert self._shell is not None
        assert self._shell.stdin is not None
        assert self._shell.stdout is not None
        try:
            self._shell.stdin.write(text.encode())
            self._shell.stdin.flush()
        except BrokenPipeError:
            pass  # it has ended: what it printed says why
        found, end = b"", time.monotonic() + patience
        with selectors.DefaultSelector() as selector:
            selector.register(self._shell.stdout, selectors.EVENT_READ)
            while mark.encode() not in found or not found.endswith(b"\n"):
                if not selector.select(max(0.0, end - time.monotonic())):
                    raise CommandFailed(
                        f"did not end within {patience:g} s:\n{found.decode(errors='replace')}"
                    )
                part = os.read(self._shell.stdout.fileno(), 65536)
                if not part:
                    raise CommandFailed(f"the shell has ended:\n{found.decode(errors='replace')}")
                found += part
        return found.decode(errors="replace")

    def _environment(self) -> Mapping[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("SHF_")}
        sources = [str(ROOT / folder) for folder in ("webhook", "queries", "demo")]
        return {
            **kept,
            "PATH": f"{self._tools}:{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": ":".join(sources),
            "PYTHON": sys.executable,
            "HOME": str(self.home),
            "COLUMNS": "200",
            "NO_COLOR": "1",
            "FOLDERS": " ".join(folder for folder in WRITABLE if (Path("/") / folder).is_dir()),
        }

    def _write_tools(self) -> None:
        """The names that readers type: the `shf` of this checkout, and servers under their upstream names."""
        self._tools.mkdir(exist_ok=True)
        programs = find_programs()
        calls = {
            "shf": f"{sys.executable} -c 'from self_healing_fabric.cli import main; main()'",
            "prometheus": programs.prometheus,
            "alertmanager": programs.alertmanager,
            "blackbox_exporter": programs.blackbox,
            "python3": sys.executable,
        }
        for name, call in calls.items():
            tool = self._tools / name
            tool.write_text(f'#!/bin/sh\nexec {call} "$@"\n')
            tool.chmod(0o755)


def require_unshare() -> None:
    """Raises SandboxMissing where there is no `unshare`."""
    if shutil.which("unshare") is None:
        raise SandboxMissing("no unshare on PATH (Linux: util-linux)")
