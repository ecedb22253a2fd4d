"""The locks say what pyproject.toml asks for, and what the tool that writes them makes of it."""

from __future__ import annotations

import os
import re
import shlex
import socket
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
IMAGE, BUILD = "locks/image.txt", "locks/build.txt"


def locked(lock: str) -> dict[str, list[tuple[Requirement, list[str]]]]:
    """Each package with its versions and their hashes; several versions differ in their markers."""
    found: dict[str, list[tuple[Requirement, list[str]]]] = {}
    text = re.sub(r"\\\n", " ", (ROOT / lock).read_text())
    for line in text.splitlines():
        if line.strip() and not line.lstrip().startswith("#"):
            requirement = Requirement(line.split(" --hash")[0].strip())
            hashes = re.findall(r"--hash=(sha256:[0-9a-f]{64})", line)
            found.setdefault(canonicalize_name(requirement.name), []).append((requirement, hashes))
    return found


def asked() -> Iterator[tuple[str, Requirement]]:
    """What pyproject.toml asks for, with the lock that has to hold it."""
    project = PROJECT["project"]
    extras = project["optional-dependencies"].values()
    for text in (*project["dependencies"], *(text for extra in extras for text in extra)):
        yield IMAGE, Requirement(text)
    for text in PROJECT["build-system"]["requires"]:
        yield BUILD, Requirement(text)


@pytest.mark.parametrize(("lock", "requirement"), list(asked()), ids=str)
def test_what_is_asked_for_is_locked(lock: str, requirement: Requirement) -> None:
    """In a version that is allowed, pinned exactly. `make lock` writes it."""
    pins = locked(lock).get(canonicalize_name(requirement.name), [])
    assert pins, f"{requirement.name} is not in {lock}: run `make lock`"
    for pin, _ in pins:
        (exact,) = pin.specifier
        assert exact.operator == "=="
        assert requirement.specifier.contains(exact.version, prereleases=True), f"run `make lock`: {pin}"


@pytest.mark.parametrize("lock", [IMAGE, BUILD])
def test_every_pin_has_a_hash_and_nothing_names_an_index(lock: str) -> None:
    """pip --require-hashes installs it, from whatever index the reader uses."""
    assert all(hashes for pins in locked(lock).values() for _, hashes in pins)
    assert not re.search(r"://|index-url|find-links", (ROOT / lock).read_text())


def test_the_group_build_is_what_builds() -> None:
    """The lock is written from the group, the wheel is built by what [build-system] names."""
    assert PROJECT["dependency-groups"]["build"] == PROJECT["build-system"]["requires"]


@pytest.mark.parametrize("lock", [IMAGE, BUILD])
def test_the_lock_is_what_make_lock_writes(lock: str, tmp_path: Path) -> None:
    """With the versions that it pins, everything else follows from pyproject.toml."""
    if not _index_is_there():
        pytest.skip("NOT COMPARED WITH THE LOCK: the package index cannot be reached")
    printed = subprocess.run(
        ["make", "--dry-run", "--always-make", "lock"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    (command,) = (line for line in printed.stdout.splitlines() if f"--output-file {lock}" in line)
    copy = tmp_path / Path(lock).name
    copy.write_text((ROOT / lock).read_text())
    words = shlex.split(command.replace(lock, str(copy)))
    words[0] = str(Path(sys.executable).parent / "uv")
    subprocess.run(words, cwd=ROOT, check=True)
    assert copy.read_text() == (ROOT / lock).read_text()


def _index_is_there() -> bool:
    host = re.sub(r"^\w+://|[:/].*$", "", os.environ.get("UV_DEFAULT_INDEX", "https://pypi.org/simple"))
    try:
        socket.create_connection((host, 443), timeout=5).close()
    except OSError:
        return False
    return True
