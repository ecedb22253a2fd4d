"""demo/setup.sh installs what is missing where it may, and says what to do where it may not."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SETUP = Path(__file__).resolve().parents[3] / "demo" / "setup.sh"
PROGRAMS = ("prometheus", "promtool", "prometheus-alertmanager", "prometheus-blackbox-exporter")
FOR_TESTS = ("node", "npm", "chromium", "nginx", "pgbouncer")  # of dashboards, pages, proxy and pooler
TOOLS = ("sh", "env", "cat", "sort", "tr", "mkdir", "tee", "rm")


class Machine:
    """A PATH with nothing on it but what the script itself needs and what the test puts there."""

    def __init__(self, directory: Path) -> None:
        self.path = directory
        self.calls = directory / "calls"
        self.packaged_postgresql = directory / "lib"
        self.cluster_settings = directory / "etc" / "createcluster.d"
        for tool in TOOLS:
            self.path.joinpath(tool).symlink_to(str(shutil.which(tool)))
        self.put("python3", f'exec {sys.executable} "$@"')
        self.put("id", "echo 1000")

    def put(self, name: str, script: str = "") -> None:
        program = self.path / name
        program.parent.mkdir(parents=True, exist_ok=True)
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {
            "PATH": str(self.path),
            "CALLS": str(self.calls),
            "PACKAGED_POSTGRESQL": str(self.packaged_postgresql),
            "CREATECLUSTER_D": str(self.cluster_settings),
        }
        return subprocess.run(
            ["sh", SETUP, *arguments],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_a_complete_machine_is_left_alone(machine: Machine) -> None:
    """With everything on PATH nothing is installed and nothing is said."""
    for program in PROGRAMS:
        machine.put(program)
    machine.put("apt-get", 'echo "$@" >> "$CALLS"')
    done = machine.run()
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert not machine.calls.exists()


def test_upstream_names_are_good_enough(machine: Machine) -> None:
    """Release archives and Homebrew bring the programs under other names than Debian."""
    for program in ("prometheus", "promtool", "alertmanager", "blackbox_exporter"):
        machine.put(program)
    assert machine.run().returncode == 0


def test_root_installs_exactly_what_is_missing(machine: Machine) -> None:
    """Lists are updated first; packages are installed without recommendations and without questions."""
    machine.put("prometheus")
    machine.put("promtool")
    machine.put("id", "echo 0")
    machine.put("apt-get", 'echo "$DEBIAN_FRONTEND $@" >> "$CALLS"')
    assert machine.run().returncode == 0
    packages = "prometheus-alertmanager prometheus-blackbox-exporter"
    assert machine.calls.read_text().splitlines() == [
        " update -qq",
        f"noninteractive install -y -qq --no-install-recommends {packages}",
    ]


def test_sudo_without_a_password_will_do(machine: Machine) -> None:
    """Who is not root installs through sudo, which must not ask for anything."""
    machine.put("sudo", 'echo sudo >> "$CALLS"; shift; exec "$@"')
    machine.put("true")
    machine.put("apt-get", 'echo "$1" >> "$CALLS"')
    assert machine.run().returncode == 0
    assert machine.calls.read_text().split() == ["sudo", "sudo", "update", "sudo", "install"]


@pytest.mark.parametrize(
    ("programs", "reason"),
    [
        ({}, "no apt-get"),
        ({"apt-get": ""}, "needs root"),
        ({"apt-get": "", "sudo": "exit 1"}, "needs root"),
        ({"apt-get": '[ "$1" = update ]', "id": "echo 0"}, "apt-get could not install them"),
    ],
)
def test_what_cannot_be_installed_is_named(machine: Machine, programs: dict[str, str], reason: str) -> None:
    """Status 1, the reason, every missing program and the ways to get them."""
    for name, script in programs.items():
        machine.put(name, script)
    done = machine.run()
    assert done.returncode == 1
    assert reason in done.stderr
    packages = "prometheus prometheus-alertmanager prometheus-blackbox-exporter"
    assert f"apt-get install --no-install-recommends {packages}" in done.stderr
    assert "brew install prometheus alertmanager blackbox_exporter" in done.stderr
    assert "release archives" in done.stderr


def test_only_the_tests_want_node_and_a_browser(machine: Machine) -> None:
    """Whoever runs the demo needs neither; npm comes with Node.js in most places, but not on Debian."""
    for program in (*PROGRAMS, "postgres"):
        machine.put(program)
    assert machine.run().returncode == 0
    missing = machine.run("test")
    assert missing.returncode == 1
    packages = "chromium nginx-light nodejs npm pgbouncer"
    assert f"apt-get install --no-install-recommends {packages} \n" in missing.stderr
    for program in FOR_TESTS:
        machine.put(program)
    assert machine.run("test").returncode == 0


@pytest.mark.parametrize("place", ["postgres", "lib/15/bin/postgres"])
def test_tests_want_postgresql_on_path_or_where_debian_keeps_it(machine: Machine, place: str) -> None:
    """Debian's servers are not on PATH; one of either place is good enough, for users as well as for root."""
    for program in (*PROGRAMS, *FOR_TESTS):
        machine.put(program)
    assert machine.run().returncode == 0  # the demo needs none
    missing = machine.run("test")
    assert missing.returncode == 1
    assert "PostgreSQL server" in missing.stdout
    assert "apt-get install --no-install-recommends postgresql \n" in missing.stderr
    assert "brew install prometheus alertmanager blackbox_exporter postgresql" in missing.stderr
    machine.put(place)
    done = machine.run("test")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("status", [0, 1])
def test_postgresql_is_installed_without_a_cluster_that_starts_with_the_machine(
    machine: Machine, status: int
) -> None:
    """During the install a setting forbids the cluster; afterwards it is gone, also on failure."""
    for program in (*PROGRAMS, *FOR_TESTS, "dockerd", "busybox", "docker-compose", "systemd-analyze"):
        machine.put(program)
    machine.put("id", "echo 0")
    setting = f"{machine.cluster_settings}/*"
    script = f'[ "$1" = update ] && exit; echo "$@" >> "$CALLS"; cat {setting} >> "$CALLS"; exit {status}'
    machine.put("apt-get", script)
    assert machine.run("test").returncode == status
    installed, seen = machine.calls.read_text().splitlines()
    assert installed.endswith("--no-install-recommends postgresql")
    assert seen == "create_main_cluster = false"
    assert list(machine.cluster_settings.iterdir()) == []


def test_other_packages_leave_the_settings_of_postgresql_alone(machine: Machine) -> None:
    """Nothing is written where PostgreSQL is not installed."""
    machine.put("id", "echo 0")
    machine.put("apt-get", "")
    assert machine.run().returncode == 0
    assert not machine.cluster_settings.exists()


def test_a_python_without_venv_gets_its_package(machine: Machine) -> None:
    """Debian's python3 cannot make a virtual environment until python3-venv is installed."""
    for program in PROGRAMS:
        machine.put(program)
    machine.put("python3", 'case "$2" in *ensurepip*) exit 1;; *) echo 3.11;; esac')
    machine.put("id", "echo 0")
    machine.put("apt-get", 'echo "$@" >> "$CALLS"')
    done = machine.run()
    assert done.returncode == 0
    assert "the venv module of Python 3.11" in done.stdout
    assert machine.calls.read_text().splitlines()[-1].endswith("--no-install-recommends python3-venv")
    assert os.access(SETUP, os.X_OK)
