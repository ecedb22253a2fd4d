"""What is wanted: the bytes of a file, or of a file in a commit.

A checkout is asked for its commit and not for its working tree, so a half-finished edit on the machine is
rolled out to nobody. The revision is resolved first and everything is read from that commit: a push between
two questions mixes nothing. `git` is told nothing by our environment and cannot ask for a password.
"""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from self_healing_fabric.recovery.effects import TargetUnreadable
from self_healing_fabric.settings import DesiredConfiguration

LARGEST = 256 * 1024  # bytes; the previous configuration is kept in the store, which is no place for more
GIT_TIMEOUT = 10.0  # seconds
SYMBOLIC_LINK = b"120000"  # mode of a link, whose content is the path that it leads to


@dataclass(frozen=True)
class Wanted:
    """The wanted bytes, and where they are from, for people."""

    content: bytes
    origin: str


def read_wanted(settings: DesiredConfiguration) -> Wanted:
    """Read what is wanted. Raises TargetUnreadable, which quotes nothing of it."""
    if settings.git is not None:
        return _from_git(settings.git, settings.revision, str(settings.path))
    path = settings.file or settings.manifest
    return _from_file(Path(str(path)))


def _from_file(path: Path) -> Wanted:
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST + 1)
    except OSError as error:
        raise TargetUnreadable(f"the wanted configuration {path}: {error.strerror}") from error
    return Wanted(within_limit(content, str(path)), str(path))


def _from_git(checkout: Path, revision: str, path: str) -> Wanted:
    resolved = _git(checkout, "rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}")
    if resolved is None:
        raise TargetUnreadable(f"{checkout} has no revision {revision}")
    commit = resolved.decode().strip()
    name = f"{revision}:{path}"
    mode, kind, size = _entry(checkout, commit, path)
    if kind != b"blob":
        raise TargetUnreadable(f"{checkout} has no file {path} in {revision} ({commit[:12]})")
    if mode == SYMBOLIC_LINK:
        raise TargetUnreadable(
            f"{path} is a symbolic link in {revision} ({commit[:12]}) of {checkout}: name the file behind it"
        )
    if int(size) > LARGEST:
        raise too_large(name)
    content = _git(checkout, "cat-file", "blob", f"{commit}:{path}")
    if content is None:
        raise TargetUnreadable(f"{checkout}: {name} cannot be read")
    return Wanted(content, f"{name} ({commit[:12]}) of {checkout}")


def _entry(checkout: Path, commit: str, path: str) -> tuple[bytes, bytes, bytes]:
    """Mode, kind and size of what is at a path in a commit; empty where there is nothing."""
    listed = _git(checkout, "ls-tree", "--full-tree", "--long", "-z", commit, "--", path) or b""
    mode, kind, _, size = listed.partition(b"\t")[0].split() or [b""] * 4
    return mode, kind, size


def _git(checkout: Path, *arguments: str) -> bytes | None:
    """The answer of git, None when it says no. Raises TargetUnreadable when it cannot be asked."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    environment |= {"GIT_TERMINAL_PROMPT": "0", "GIT_NO_LAZY_FETCH": "1", "LC_ALL": "C"}
    try:
        done = subprocess.run(  # noqa: S603 - arguments come from the configuration, none can be an option
            ["git", "-C", str(checkout), *arguments],  # noqa: S607 - whichever git people use
            capture_output=True,
            timeout=GIT_TIMEOUT,
            check=False,
            env=environment,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise TargetUnreadable(f"git cannot be asked about {checkout}: {error}") from error
    words = done.stderr.decode("utf-8", "replace").strip().splitlines()
    if done.returncode and words and "dubious owner" in words[0]:
        # For the whole system, not `--global` as git says: the fabric's user may have no home.
        command = words[-1].strip().replace("--global", "--system")
        raise TargetUnreadable(
            f"{checkout} belongs to another user, and git reads it only where root has allowed that, by "
            f"`{command}`"
        )
    if done.returncode and words and "not a git repository" in words[0]:
        raise TargetUnreadable(f"{checkout}: {words[0]}")
    if done.returncode and words and "cannot change to" in words[0]:
        raise TargetUnreadable(f"{checkout} is no directory that can be read")
    return done.stdout if done.returncode == 0 else None


def within_limit(content: bytes, name: str) -> bytes:
    """The same bytes. Raises TargetUnreadable when they are too many to be kept."""
    if len(content) > LARGEST:
        raise too_large(name)
    return content


def too_large(name: str) -> TargetUnreadable:
    """Why a configuration is not handled."""
    return TargetUnreadable(f"{name} is larger than {LARGEST // 1024} KiB, which is the most that is kept")
