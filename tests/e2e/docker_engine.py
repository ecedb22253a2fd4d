"""A Docker engine of the tests' own, with one small web server as its only image.

The engine of the machine is never touched: nobody's containers are at risk, and what is asserted is the
engine's own data. There is no registry, no bridge and no iptables, so the image is imported from a tar that
holds a static busybox, and its containers use the host's network.

The traps avoided: sockets have to fit into 108 characters, so the engine lives in a short directory and not
in pytest's; the default namespace of a containerd that already runs on the machine belongs to the machine's
engine, so ours has its own; and an engine waits long for containers that ignore SIGTERM, so they are removed
by force before it is stopped.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import os
import secrets
import shutil
import signal
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import docker
import pytest
from docker.errors import APIError, DockerException, NotFound
from docker.models.containers import Container

from shf_demo.ports import free_ports
from shf_demo.tether import tethered

IMAGE = "shf-test-web:latest"
READY_DEADLINE = 30.0  # seconds; half a second on an idle machine
STOP_GRACE = 30.0  # seconds for the engine to end its own children
LOG_TAIL = 15  # lines

# The page tells when the process began, so that the container itself can testify to its restart. PID 1 has no
# default handlers: without the trap the shell would ignore SIGTERM.
WEB = (
    "cat /proc/uptime > /www/index.html; trap '{trap}' TERM; "
    "httpd -f -p 127.0.0.1:{port} -h /www & while true; do wait; sleep 0.05; done"
)
OBEYS, IGNORES = "exit 0", ""


def require_engine() -> None:
    """Skip, loudly, where no engine can be started; fail where CI promised one."""
    missing = []
    if shutil.which("dockerd") is None:
        missing.append("no dockerd on PATH (Debian: docker.io)")
    if _busybox() is None:
        missing.append("no static busybox on PATH (Debian: busybox-static)")
    if os.geteuid() != 0:
        missing.append("not root")
    if not missing:
        return
    reason = f"the tests of Docker recovery need an engine of their own: {'; '.join(missing)}"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def _busybox() -> Path | None:
    """A statically linked busybox: a dynamic one names its loader right after the headers."""
    found = shutil.which("busybox")
    return Path(found) if found and b"/ld-" not in Path(found).read_bytes()[:4096] else None


def wait_until(what: str, condition: Callable[[], bool], deadline: float = 20.0) -> None:
    """Until the condition holds; TimeoutError when it does not within `deadline` seconds."""
    end = time.monotonic() + deadline
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"{what}: not within {deadline:g} s")
        time.sleep(0.05)


def remove(container: Container) -> None:
    """Remove a container by force, and again while the engine fails in that.

    An engine that is amid a restart writes the container's record into the folder that it removes
    (moby/moby#52161), answers 500, and removes the rest when it is asked again.
    """

    def is_gone() -> bool:
        try:
            container.remove(force=True)
        except NotFound:
            pass
        except APIError as error:
            if not error.is_server_error():
                raise
            return False
        return True

    wait_until(f"{container.name} is removed", is_gone)


@dataclass(frozen=True)
class Web:
    """One container with a web server, seen from the engine and from its port."""

    engine: DockerEngine
    name: str
    id: str
    port: int

    def started_at(self) -> str:
        """What the engine says."""
        return str(self.state()["StartedAt"])

    def state(self) -> dict[str, Any]:
        """The engine's own record of this very container, whatever its name is now."""
        state: dict[str, Any] = self.container().attrs["State"]
        return state

    def container(self) -> Container:
        """The container by its id."""
        return self.engine.client.containers.get(self.id)

    def page(self) -> str | None:
        """What the container answers: the machine's uptime when its process began; None without an answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=2)
        try:
            connection.request("GET", "/")
            answer = connection.getresponse()
            return answer.read().decode().split()[0] if answer.status == 200 else None
        except (OSError, http.client.HTTPException):
            return None
        finally:
            connection.close()

    def wait_answering(self) -> str:
        """Until it answers; returns the page."""
        wait_until(f"{self.name} answers", lambda: bool(self.page()))
        return str(self.page())

    def events(self, kind: str) -> int:
        """How many events of a kind ("start", "restart", "kill") the engine has recorded of it."""
        return len(self.engine.events(kind, self.id))

    def exit_codes(self) -> list[int]:
        """With which codes it ended, in order."""
        return [int(event["Actor"]["Attributes"]["exitCode"]) for event in self.engine.events("die", self.id)]


class DockerEngine:
    """`with DockerEngine() as engine:` runs one; leaving removes its containers, ends it and its data."""

    client: docker.DockerClient

    def __init__(self, storage_driver: str = "vfs", options: Sequence[str] = ()) -> None:
        """`vfs` is slow and large, but it works on every file system; `options`: further ones of dockerd."""
        self.directory = Path(tempfile.mkdtemp(prefix="shf-docker-"))
        self._storage_driver = storage_driver
        self._options = options
        self._socket = self.directory / "docker.sock"
        self.host = f"unix://{self._socket}"
        self._namespace = (
            f"shf-tests-{secrets.token_hex(4)}"  # containerd refuses the names that mkdtemp makes
        )
        self._log = self.directory / "log"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        try:
            self.start()
            self._import_image()
        except BaseException:
            self._clean_up()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._clean_up()

    def start(self) -> None:
        """Start the engine, with the data that a run before may have left, and wait for it."""
        directory, namespace = self.directory, self._namespace
        for leftover in (self._socket, directory / "exec/containerd/containerd.pid"):
            leftover.unlink(missing_ok=True)  # of an engine that was killed
        command = [
            "dockerd",
            f"--data-root={directory / 'data'}",
            f"--exec-root={directory / 'exec'}",
            f"--host={self.host}",
            f"--pidfile={directory / 'pid'}",
            f"--containerd-namespace={namespace}",
            f"--containerd-plugins-namespace={namespace}-plugins",
            "--iptables=false",
            "--bridge=none",
            f"--storage-driver={self._storage_driver}",
            *self._options,
        ]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                tethered(command),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # a process group of its own, ended as one
            )
        wait_until(f"the engine is ready; see {self._log}", self._is_ready, READY_DEADLINE)

    def stop(self) -> None:
        """SIGTERM, as an operator stops it; its containers end with it."""
        if self._process is None:
            return
        self.client.close()
        self._process.terminate()
        try:
            self._process.wait(STOP_GRACE)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def kill(self) -> None:
        """SIGKILL, as a crash ends it; what it had running stays."""
        self.signal(signal.SIGKILL)
        if self._process is not None:
            self._process.wait()

    def is_away(self) -> bool:
        """Whether it was stopped or killed, and not started since."""
        return self._ended()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the engine: SIGSTOP makes it hang, SIGCONT go on."""
        if self._process is not None:
            self._process.send_signal(number)

    @contextlib.contextmanager
    def web(self, name: str, *, on_term: str = OBEYS, **options: Any) -> Iterator[Web]:
        """Run a web server under a name until the end of the block."""
        (port,) = free_ports(1)
        container = self.client.containers.run(
            IMAGE,
            ["sh", "-c", WEB.format(trap=on_term, port=port)],
            name=name,
            network_mode="host",
            detach=True,
            **options,
        )
        web = Web(self, name, str(container.id), port)
        try:
            web.wait_answering()
            yield web
        finally:
            remove(container)

    def events(self, kind: str, container: str) -> list[dict[str, Any]]:
        """The events of a kind that the engine has recorded of a container."""
        filters = {"container": container, "event": kind}
        recorded = self.client.events(since=0, until=f"{time.time():.6f}", filters=filters, decode=True)
        with contextlib.closing(recorded):
            return list(recorded)

    def _is_ready(self) -> bool:
        if self._ended():
            tail = "\n".join(self._log.read_text(errors="replace").splitlines()[-LOG_TAIL:])
            raise RuntimeError(f"the engine ended by itself:\n{tail}")
        if not self._socket.exists():
            return False
        try:
            self.client = docker.DockerClient(base_url=self.host, timeout=60)
        except DockerException:
            return False
        return True

    def _ended(self) -> bool:
        return self._process is None or self._process.poll() is not None

    def _import_image(self) -> None:
        self.client.api.import_image_from_data(_image(), repository=IMAGE)

    def _clean_up(self) -> None:
        try:
            if self._ended() and hasattr(self, "client"):
                self.start()  # only an engine can end the containers that it left
            if not self._ended():
                # The list of an engine may name what was removed amid a restart.
                for container in self.client.containers.list(all=True, ignore_removed=True):
                    remove(container)
        finally:
            self.stop()
            self._unmount()
            shutil.rmtree(self.directory)

    def _unmount(self) -> None:
        """An engine leaves the mount of its network namespace behind, which keeps the directory alive."""
        mounts = Path("/proc/self/mounts").read_text().splitlines()
        for point in (line.split()[1] for line in reversed(mounts)):
            if point.startswith(f"{self.directory}/"):
                subprocess.run(["umount", "--lazy", point], check=True)


def _image() -> bytes:
    """A root file system of nothing but busybox and the names by which it is called."""
    busybox = _busybox()
    assert busybox is not None, "require_engine() comes first"
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for folder in ("bin", "www", "tmp"):
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(entry)
        tar.add(busybox.resolve(), "bin/busybox")
        for applet in ("sh", "httpd", "cat", "sleep"):
            link = tarfile.TarInfo(f"bin/{applet}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(link)
    return buffer.getvalue()
