"""The image of the Dockerfile as it stands, built on an engine of the tests' own, and containers of it.

Where no registry can be reached the official base cannot be pulled. What the Dockerfile asks of it is Debian
with Python and pip, so that is put together from Debian's own packages and imported under the official name:
the Dockerfile itself is not touched, and neither is anything that it does.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import docker
import pytest
from docker.models.containers import Container
from docker_engine import DockerEngine, remove

from shf_demo.servers import Server
from shf_demo.stack import Stack

ROOT = Path(__file__).parents[2]
BUILD_DEADLINE = 900.0  # seconds; one minute on an idle machine
STOP_TIMEOUT = 20  # seconds until the engine sends SIGKILL
LOCKED = {  # as deploy/compose and docs/deployment.md run it
    "read_only": True,
    "cap_drop": ["ALL"],
    "security_opt": ["no-new-privileges:true"],
    "network_mode": "host",
}

# Debian 12 without its package manager, and Python with pip: what the official one has that a build needs.
PACKAGES = """
    base-files base-passwd bash ca-certificates coreutils dash debianutils findutils gcc-12-base
    grep gzip libacl1 libattr1 libbz2-1.0 libc-bin libc6 libcom-err2 libcrypt1 libdb5.3 libexpat1
    libffi8 libgcc-s1 libgmp10 libgssapi-krb5-2 libk5crypto3 libkeyutils1 libkrb5-3 libkrb5support0
    liblzma5 libncursesw6 libnsl2 libpcre2-8-0 libpython3-stdlib libpython3.11-minimal
    libpython3.11-stdlib libreadline8 libselinux1 libsqlite3-0 libssl3 libstdc++6 libtinfo6
    libtirpc3 libuuid1 media-types netbase openssl python3 python3-distutils python3-lib2to3
    python3-minimal python3-pip python3-pip-whl python3-pkg-resources python3-setuptools
    python3-setuptools-whl python3-venv python3-wheel python3.11 python3.11-minimal python3.11-venv
    readline-common sed tar tzdata zlib1g
"""


def require_debian() -> None:
    """Skip, loudly, where the base cannot be put together; fail where CI promised it."""
    missing = [name for name in ("apt-get", "dpkg-deb", "docker") if shutil.which(name) is None]
    if not missing:
        return
    reason = f"NOT TESTED AS A CONTAINER: the image's base needs {', '.join(missing)}"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def driver_for(directory: Path) -> str:
    """The fast storage driver, unless the files lie on an overlay already, where only the slow one works."""
    told = subprocess.run(
        ["stat", "--file-system", "--format=%T", directory], capture_output=True, text=True, check=True
    )
    return "vfs" if "overlay" in told.stdout else "overlay2"


def base_of_the_dockerfile() -> str:
    """The name that the Dockerfile pins."""
    found = re.search(r"^ARG PYTHON=(\S+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert found, "the Dockerfile names no base"
    return found[1]


def import_base(engine: DockerEngine, name: str) -> None:
    """Put the base together and import it under a name."""
    with tempfile.TemporaryDirectory(prefix="shf-base-") as work:
        packages, root = Path(work, "packages"), Path(work, "root")
        packages.mkdir()
        root.mkdir()
        download = ["apt-get", "-o", "APT::Sandbox::User=root", "-qq", "download", *PACKAGES.split()]
        subprocess.run(download, cwd=packages, check=True, capture_output=True)
        for package in sorted(packages.glob("*.deb")):
            subprocess.run(["dpkg-deb", "--extract", package, root], check=True)
        (root / "tmp").mkdir(mode=0o1777, exist_ok=True)
        (root / "root").mkdir(exist_ok=True)
        shutil.copy("/etc/ssl/certs/ca-certificates.crt", root / "etc/ssl/certs")  # whom this machine trusts
        (root / "usr/bin/python").symlink_to("python3")
        (root / "bin/sh").unlink(missing_ok=True)
        (root / "bin/sh").symlink_to("dash")
        (root / "usr/lib/python3.11/EXTERNALLY-MANAGED").unlink()  # the official one has no such mark
        (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
        (root / "etc/group").write_text("root:x:0:\n")
        tar = subprocess.Popen(["tar", "--create", "--directory", root, "."], stdout=subprocess.PIPE)
        certificates = "/etc/ssl/certs/ca-certificates.crt"
        changes = (
            f"ENV PATH=/usr/local/bin:/usr/bin:/bin SSL_CERT_FILE={certificates} PIP_CERT={certificates}"
        )
        subprocess.run(
            ["docker", "--host", engine.host, "import", "--change", changes, "-", name],
            stdin=tar.stdout,
            check=True,
            capture_output=True,
        )
        assert tar.stdout is not None
        tar.stdout.close()
        assert tar.wait() == 0


def build(engine: DockerEngine, tag: str, *arguments: str, context: Path = ROOT) -> str:
    """`docker build` with the builder that every engine has; returns the image's id."""
    command = ["docker", "--host", engine.host, "build", "--network=host", "--tag", tag, *arguments, "."]
    done = subprocess.run(
        command,
        cwd=context,
        env={**os.environ, "DOCKER_BUILDKIT": "0"},
        capture_output=True,
        text=True,
        timeout=BUILD_DEADLINE,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return str(engine.client.images.get(tag).id)


class ContainedServer(Server):
    """The fabric in a container, started and stopped by the engine, with its data in a volume."""

    def __init__(self, engine: DockerEngine, image: str, name: str, workdir: Path, url: str) -> None:
        super().__init__(name, [], f"{url}/readyz", workdir / f"{name}.log", environment={})
        self.engine, self.image = engine, image
        self.volume = f"{name}-data"
        self._configuration = workdir / "shf.yaml"
        self._listen = url.removeprefix("http://")

    @property
    def container(self) -> Container:
        """As the engine knows it now."""
        return self.engine.client.containers.get(self.name)

    def start(self) -> None:
        """`docker start` where it exists already, else `docker run`."""
        try:
            self.container.start()
            return
        except docker.errors.NotFound:
            pass
        self.engine.client.containers.run(
            self.image,
            name=self.name,
            detach=True,
            environment={"SHF_STORE": "sqlite:////data/shf.db", "SHF_LISTEN": self._listen},
            volumes={
                str(self._configuration): {"bind": "/etc/shf/shf.yaml", "mode": "ro"},
                self.volume: {"bind": "/data", "mode": "rw"},
            },
            healthcheck={"interval": 1_000_000_000, "retries": 1},  # nanoseconds; the rest is the image's own
            **LOCKED,
        )

    def check_running(self) -> None:
        """The end of its log when it has ended."""
        state = self.container.attrs["State"]
        if not state["Running"]:
            self.log.write_bytes(self.container.logs())
            raise AssertionError(f"{self._complaint('has ended')}\n{state}")

    def stop(self) -> None:
        """`docker stop`: SIGTERM, and SIGKILL when that has no effect."""
        with contextlib.suppress(docker.errors.NotFound):  # removed by the test
            self.container.stop(timeout=STOP_TIMEOUT)

    def kill(self) -> None:
        """`docker kill`."""
        self.container.kill()

    def health(self) -> str:
        """What the image's own health check says."""
        return str(self.container.attrs["State"]["Health"]["Status"])

    def remove(self) -> None:
        """With its data."""
        with contextlib.suppress(docker.errors.NotFound):
            remove(self.container)
        with contextlib.suppress(docker.errors.NotFound):
            self.engine.client.volumes.get(self.volume).remove()


class ContainedStack(Stack):
    """The demo's servers, with the fabric out of the image."""

    def __init__(self, engine: DockerEngine, image: str, workdir: Path, **options: object) -> None:
        super().__init__(workdir, **options)  # type: ignore[arg-type]
        self._engine, self._image = engine, image

    def _define_servers(self, programs: object) -> None:
        super()._define_servers(programs)  # type: ignore[arg-type]
        self.configuration_file.chmod(0o644)  # the container's user reads it too
        self.fabric = ContainedServer(
            self._engine, self._image, "contained-fabric", self.workdir, self.fabric_url
        )


@contextmanager
def engine_with_image() -> Iterator[tuple[DockerEngine, str]]:
    """An engine, the base, and the image built on it; a minute."""
    with DockerEngine(driver_for(Path(tempfile.gettempdir()))) as engine:
        import_base(engine, base_of_the_dockerfile())
        yield engine, build(engine, "self-healing-fabric:test")
