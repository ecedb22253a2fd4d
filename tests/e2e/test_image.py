"""The image: locked down as the documentation runs it, it heals, ends when told and forgets nothing.

What is asserted is what the engine, the kernel and the healed service say.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest
from docker_engine import DockerEngine, remove, require_engine, wait_until
from fabric_image import LOCKED, ContainedServer, ContainedStack, build, engine_with_image, require_debian

from conftest import Fabric
from shf_demo.fleet import FLEET
from shf_demo.ports import free_ports
from shf_demo.servers import Programs

pytestmark = [pytest.mark.e2e, pytest.mark.docker]

USER = 10001
HEALTH_DEADLINE = 60.0  # seconds


@pytest.fixture(scope="module")
def built() -> Iterator[tuple[DockerEngine, str]]:
    """The engine and the id of the image."""
    require_engine()
    require_debian()
    with engine_with_image() as (engine, image):
        yield engine, image


def run(built: tuple[DockerEngine, str], script: str, **options: object) -> str:
    """What a shell in a fresh container says; a status that is not 0 is an error."""
    engine, image = built
    output = engine.client.containers.run(
        image, ["-c", script], entrypoint="sh", remove=True, **{**LOCKED, **options}
    )
    return str(output.decode())


def process_status(pid: int) -> dict[str, list[str]]:
    """What the kernel says of a process, seen from outside."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.split() for name, _, value in (line.partition(":") for line in lines)}


def test_the_main_job_in_a_container(
    built: tuple[DockerEngine, str], programs: Programs, tmp_path: Path
) -> None:
    """A hanging guard is restarted once by a fabric without any right; told to end it ends, and remembers."""
    services = [service for service in FLEET if service.name in ("guardian-one", "tokenguard")]
    with ContainedStack(*built, tmp_path, services=services) as stack, contextlib.ExitStack() as leaving:
        server = stack.fabric
        assert isinstance(server, ContainedServer)
        leaving.callback(server.remove)
        stack.wait_services_up()
        wait_until("the engine calls it healthy", lambda: server.health() == "healthy", HEALTH_DEADLINE)

        fabric = Fabric(stack)
        leaving.callback(fabric.http.close)
        stack.inject("tokenguard", "hang")
        story = fabric.wait_resolved("tokenguard")
        assert story["outcome"] == "healed"
        assert stack.restarts("tokenguard") == 1
        assert stack.is_healthy("tokenguard")

        kernel = process_status(server.container.attrs["State"]["Pid"])
        assert set(kernel["Uid"]) == set(kernel["Gid"]) == {str(USER)}
        assert {int(kernel[name][0], 16) for name in ("CapEff", "CapPrm", "CapBnd")} == {0}
        assert kernel["NoNewPrivs"] == ["1"]

        server.stop()
        state = server.container.attrs["State"]
        assert (state["ExitCode"], state["OOMKilled"]) == (0, False)
        assert "stopping" in server.container.logs().decode()

        server.start()
        server.wait_ready()
        assert [row["id"] for row in fabric.incidents("tokenguard")] == [story["id"]]
        remove(server.container)
        server.start()  # another container on the same volume, as an upgrade is
        server.wait_ready()
        assert fabric.story(story["id"])["outcome"] == "healed"
        assert stack.restarts("tokenguard") == 1


def test_a_fabric_that_does_not_answer_is_called_unhealthy(
    built: tuple[DockerEngine, str], tmp_path: Path
) -> None:
    """The health check asks the process: frozen it is unhealthy, and healthy again when it goes on."""
    (tmp_path / "shf.yaml").write_text("listen: 127.0.0.1:9931\n")
    engine, image = built
    (port,) = free_ports(1)
    server = ContainedServer(engine, image, "frozen-fabric", tmp_path, f"http://127.0.0.1:{port}")
    try:
        server.start()
        wait_until("healthy", lambda: server.health() == "healthy", HEALTH_DEADLINE)
        server.container.kill("SIGSTOP")
        wait_until("unhealthy", lambda: server.health() == "unhealthy", HEALTH_DEADLINE)
        server.container.kill("SIGCONT")
        wait_until("healthy again", lambda: server.health() == "healthy", HEALTH_DEADLINE)
    finally:
        server.remove()


def test_nothing_in_it_builds_installs_or_makes_root(built: tuple[DockerEngine, str]) -> None:
    """No compiler, no installer and no file that runs as somebody else; nothing can be written but /data."""
    tools = "cc c99 gcc g++ cpp ld as make clang tcc pip pip3 apt-get su sudo"
    found = run(built, f"for tool in {tools}; do command -v $tool; done; true")
    assert found == ""
    for module in ("pip", "ensurepip", "setuptools", "wheel", "hatchling"):
        with pytest.raises(docker.errors.ContainerError, match="No module named"):
            run(built, f"python -c 'import {module}'")
    assert run(built, "find / -xdev -perm /6000", user="0:0", working_dir="/") == ""
    assert run(built, "touch /data/here && echo /data").split() == ["/data"]
    for folder in ("/", "/opt/shf", "/etc", "/home", "/usr/local"):
        with pytest.raises(docker.errors.ContainerError):
            run(built, f"touch {folder}/here")
    assert run(built, "id -un").strip() == "shf"


def test_the_lock_is_what_is_installed(built: tuple[DockerEngine, str]) -> None:
    """Every package has the version of the lock, and no package is there besides."""
    told = run(
        built,
        "python -c 'import importlib.metadata as m, json; "
        'print(json.dumps({d.name.lower().replace("_", "-"): d.version for d in m.distributions()}))\'',
    )
    installed = json.loads(told)
    lock = Path(__file__).parents[2] / "locks/image.txt"
    locked = {line.split("==")[0]: line for line in lock.read_text().splitlines() if "==" in line}
    assert installed.pop("self-healing-fabric")
    for name, version in installed.items():
        assert f"{name}=={version}" in lock.read_text(), (name, version)
    missing = {name for name in locked if name not in installed}
    assert all("sys_platform" in locked[name] for name in missing), missing


@pytest.mark.slow
def test_the_same_sources_make_the_same_layer(built: tuple[DockerEngine, str], tmp_path: Path) -> None:
    """Built again, without cache and from files with other times, the file system is the same to the bit."""
    engine, image = built
    root = Path(__file__).parents[2]
    copied = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    names = subprocess.run(copied, cwd=root, capture_output=True, check=True, text=True).stdout.split("\0")
    for name in filter(None, names):
        target = tmp_path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if (root / name).is_file():
            target.write_bytes((root / name).read_bytes())
    again = build(engine, "self-healing-fabric:again", "--no-cache", context=tmp_path)
    layers = [engine.client.images.get(each).attrs["RootFS"]["Layers"] for each in (image, again)]
    assert layers[0] == layers[1]
