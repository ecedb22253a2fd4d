"""What is wanted comes from a file or a commit; what cannot be read says why, and nothing of the content."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from self_healing_fabric.recovery.configuration.desired import LARGEST, read_wanted
from self_healing_fabric.recovery.effects import TargetUnreadable
from self_healing_fabric.settings import DesiredConfiguration


class Checkout:
    """A Git checkout with one committed file."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir()
        self.git("init", "--quiet", "--initial-branch=main")
        self.commit("conf/cart.yaml", b"pool: 5\r\n\xff")

    def git(self, *arguments: str) -> str:
        identity = ("-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "core.autocrlf=false")
        command = ["git", "-C", str(self.directory), *identity, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    def commit(self, path: str, content: bytes) -> None:
        file = self.directory / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", "change")

    def wanted(self, path: str = "conf/cart.yaml", revision: str = "HEAD") -> DesiredConfiguration:
        return DesiredConfiguration(git=self.directory, path=path, revision=revision)


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    """A checkout of the test's own."""
    return Checkout(tmp_path / "repo")


def test_a_file_is_read_byte_for_byte(tmp_path: Path) -> None:
    """Line ends and bytes that are no text included."""
    path = tmp_path / "cart.conf"
    path.write_bytes(b"a\r\n\xff\x00")
    assert read_wanted(DesiredConfiguration(file=path)).content == b"a\r\n\xff\x00"


def test_uncommitted_edits_do_not_count(checkout: Checkout) -> None:
    """Neither edited nor staged ones: what counts is the commit."""
    (checkout.directory / "conf/cart.yaml").write_bytes(b"pool: 500")
    checkout.git("add", "--all")
    (checkout.directory / "conf/cart.yaml").write_bytes(b"pool: 5000")
    found = read_wanted(checkout.wanted())
    assert found.content == b"pool: 5\r\n\xff"
    assert "HEAD:conf/cart.yaml" in found.origin


def test_a_revision_is_what_it_names(checkout: Checkout) -> None:
    """A tag stays where it is when the branch goes on."""
    checkout.git("tag", "v1")
    checkout.commit("conf/cart.yaml", b"pool: 6")
    assert read_wanted(checkout.wanted(revision="v1")).content == b"pool: 5\r\n\xff"
    assert read_wanted(checkout.wanted(revision="main")).content == b"pool: 6"
    assert read_wanted(checkout.wanted(revision="HEAD~1")).content == b"pool: 5\r\n\xff"


def test_what_git_does_not_have_is_said(checkout: Checkout, tmp_path: Path) -> None:
    """A revision, a file, a folder instead of a file, a checkout that is none."""
    cases = [
        (checkout.wanted(revision="v9"), "has no revision v9"),
        (checkout.wanted("conf/other.yaml"), r"has no file conf/other.yaml in HEAD \("),
        (checkout.wanted("conf"), "has no file conf in HEAD"),
        (DesiredConfiguration(git=tmp_path, path="a"), "not a git repository"),
        (DesiredConfiguration(git=tmp_path / "none", path="a"), "no directory that can be read"),
    ]
    for settings, told in cases:
        with pytest.raises(TargetUnreadable, match=told):
            read_wanted(settings)


def test_a_checkout_of_another_user_is_read_when_that_is_allowed(
    checkout: Checkout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where one user pulls and the fabric has one of its own, without a home: git's advice to allow it has
    several lines, of which the last ones were not told, and would have been of no use there."""
    machine, programs = tmp_path / "gitconfig", tmp_path / "programs"
    programs.mkdir()
    git = programs / "git"
    environment = f"GIT_TEST_ASSUME_DIFFERENT_OWNER=1 GIT_CONFIG_SYSTEM={machine} HOME=/nonexistent"
    git.write_text(f'#!/bin/sh\nexec env {environment} {shutil.which("git")} "$@"\n')
    git.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    with pytest.raises(TargetUnreadable, match="belongs to another user") as refused:
        read_wanted(checkout.wanted())
    command = str(refused.value).split("`")[1]
    subprocess.run(command, shell=True, check=True)  # noqa: S602 - as people do
    assert read_wanted(checkout.wanted()).content == b"pool: 5\r\n\xff"


def test_a_link_is_not_what_is_wanted(checkout: Checkout) -> None:
    """Of a symbolic link a commit holds the path that it leads to; nobody wants that for a configuration."""
    (checkout.directory / "conf/linked.yaml").symlink_to("cart.yaml")
    checkout.commit("conf/other.yaml", b"pool: 6")
    with pytest.raises(TargetUnreadable, match=r"conf/linked.yaml is a symbolic link in HEAD"):
        read_wanted(checkout.wanted("conf/linked.yaml"))


def test_our_environment_does_not_tell_git_where_to_look(
    checkout: Checkout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fabric that was started from a hook of another repository reads the configured one."""
    other = Checkout(tmp_path / "other")
    other.commit("conf/cart.yaml", b"not this")
    monkeypatch.setenv("GIT_DIR", str(other.directory / ".git"))
    assert read_wanted(checkout.wanted()).content == b"pool: 5\r\n\xff"


def test_what_is_too_large_to_be_kept_is_refused(checkout: Checkout, tmp_path: Path) -> None:
    """The store is a database; exactly the limit is still kept."""
    path = tmp_path / "large"
    path.write_bytes(b"x" * LARGEST)
    assert len(read_wanted(DesiredConfiguration(file=path)).content) == LARGEST
    path.write_bytes(b"x" * (LARGEST + 1))
    checkout.commit("large", b"x" * (LARGEST + 1))
    for settings in (DesiredConfiguration(file=path), checkout.wanted("large")):
        with pytest.raises(TargetUnreadable, match="larger than 256 KiB"):
            read_wanted(settings)


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    """With its path and the reason."""
    with pytest.raises(TargetUnreadable, match=r"cart\.conf: No such file"):
        read_wanted(DesiredConfiguration(file=tmp_path / "cart.conf"))


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"file": "a", "git": "b", "path": "c"},
        {"git": "b"},
        {"file": "a", "path": "c"},
        {"git": "b", "path": "/etc/passwd"},
        {"git": "b", "path": "a", "revision": "--output=x"},
        {"git": "b", "path": "a", "revision": "a:b"},
    ],
)
def test_what_makes_no_sense_is_refused_at_start(wrong: dict[str, str]) -> None:
    """Two places, none, half a place, and what git could take for an option."""
    with pytest.raises(ValueError, match="Desired"):
        DesiredConfiguration.model_validate(wrong)
