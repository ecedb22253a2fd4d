"""Repair of diverging replicas, on real HTTP servers: what they hold afterwards is asked at each of them."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import httpx
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from deadline import within_deadline
from self_healing_fabric.recovery import states
from self_healing_fabric.recovery.consensus import SHOWN
from self_healing_fabric.recovery.effects import DIFF, Effect, NotApplicable, Progress, TargetUnreadable
from self_healing_fabric.recovery.outcomes import BEGINS_WITHIN, Outcome, Status, Untold
from self_healing_fabric.recovery.strategies import strategies
from self_healing_fabric.settings import Settings
from state_replica import StateReplica

GOOD = b"the state that most of them hold\n" * 500
BAD = GOOD.replace(b"most", b"m0st", 1)
OTHER = b"something else"
KEY = "i1/repair-ab"


def digest_of(state: bytes) -> str:
    return hashlib.sha256(state).hexdigest()


def allowed() -> bool:
    """A permit that is not over."""
    return True


class Ledger:
    """A service with some replicas and backups; `effect` is its repair."""

    def __init__(self, directory: Path, running: ExitStack, states: Mapping[str, bytes]) -> None:
        self.directory = directory
        self.replicas = {
            name: running.enter_context(StateReplica(name, state)) for name, state in states.items()
        }
        self.domains: dict[str, str] = {}
        self.backups: list[dict[str, Any]] = []
        self.changes: dict[str, Any] = {}

    def __getitem__(self, name: str) -> StateReplica:
        return self.replicas[name]

    def backup(
        self, name: str, state: bytes = GOOD, version: int = 7, *, domain: str | None = None, **manifest: Any
    ) -> Path:
        """Write a backup with its manifest, in which single values can be wrong."""
        path = self.directory / f"{name}.state"
        path.write_bytes(state)
        told = {"digest": digest_of(state), "version": version, "bytes": len(state), **manifest}
        Path(f"{path}.manifest.json").write_text(json.dumps(told))
        self.backups.append({"name": name, "path": str(path), "failure_domain": domain or name})
        return path

    @property
    def settings(self) -> Settings:
        """As a person would write them."""
        state = {
            "replicas": [
                {"name": name, "url": replica.url, "failure_domain": self.domains.get(name, name)}
                for name, replica in self.replicas.items()
            ],
            "backups": self.backups,
            "keep_aside": str(self.directory / "aside"),
            "pause": 0,
            "timeout": 2,
            **self.changes,
        }
        return Settings(services={"ledger": {"recovery": {"state": state}}})  # type: ignore[dict-item]

    def effect(self) -> Effect:
        return strategies(self.settings)["repair"].on("ledger")

    def repair(self, permit: Callable[[], bool] = allowed) -> tuple[Mapping[str, Any], Outcome]:
        """Snapshot and perform, as the orchestrator does; `before` as it comes back from the store."""
        effect = self.effect()
        before = json.loads(json.dumps(effect.snapshot()))
        return before, effect.perform(key=KEY, attempt=1, before=before, permit=permit)

    def refusal(self) -> str:
        """Why nothing is done; and that nothing was."""
        held = self.states()
        with pytest.raises(NotApplicable) as refused:
            self.effect().snapshot()
        assert self.states() == held
        assert self.puts() == {}
        assert not (self.directory / "aside").exists()
        return str(refused.value)

    def states(self) -> dict[str, bytes]:
        return {name: replica.state for name, replica in self.replicas.items()}

    def puts(self) -> dict[str, int]:
        """How many orders arrived, by replica; those with none are left out."""
        return {name: len(replica.puts) for name, replica in self.replicas.items() if replica.puts}

    def aside(self) -> dict[str, bytes]:
        """What is kept aside, by replica and name of the file."""
        folder = self.directory / "aside" / "ledger"
        return {
            str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()
        }


@pytest.fixture
def make_ledger(tmp_path: Path) -> Iterator[Callable[..., Ledger]]:
    """Start replicas with these states."""
    with ExitStack() as running:
        yield lambda **states: Ledger(tmp_path, running, states)


@pytest.fixture
def ledger(make_ledger: Callable[..., Ledger]) -> Ledger:
    """Three replicas, of which c holds a bit that is wrong."""
    return make_ledger(a=GOOD, b=GOOD, c=BAD)


# What is done.


def test_people_are_shown_which_states_are_replaced(ledger: Ledger) -> None:
    """Two looks at the same states show the same: whoever approved it is not asked again."""
    bad, good = digest_of(BAD)[:SHOWN], digest_of(GOOD)[:SHOWN]
    for _ in range(2):
        assert ledger.effect().snapshot()[DIFF] == [f"- c: {bad} (version 7)", f"+ c: {good} (version 7)"]


def test_the_minority_gets_the_state_of_the_majority_byte_for_byte(ledger: Ledger) -> None:
    """One PUT to the one that differs, with the key and the digest of what it replaces; its own is kept."""
    before, outcome = ledger.repair()
    assert outcome.status is Status.SUCCEEDED
    assert ledger.states() == {"a": GOOD, "b": GOOD, "c": GOOD}
    assert ledger.puts() == {"c": 1}
    (put,) = ledger["c"].puts
    assert (put.key, put.if_match, put.status) == (KEY, f'"{digest_of(BAD)}"', 204)
    assert ledger.aside() == {f"c/7-{digest_of(BAD)}": BAD}
    assert before["votes"].startswith("2 of 3 failure domains hold")
    assert before["source"] == "a"
    kept = ledger.directory / "aside" / "ledger" / "c" / f"7-{digest_of(BAD)}"
    assert outcome.detail == (
        f"c holds {digest_of(GOOD)[:12]} (version 7); copied from a; what was there is kept in {kept}; "
        + before["votes"]
    )


def test_a_replica_that_lags_gets_the_version_too(ledger: Ledger) -> None:
    """Else it would differ by its version ever after."""
    ledger["c"].version = 5
    assert ledger.repair()[1].status is Status.SUCCEEDED
    assert (ledger["c"].state, ledger["c"].version) == (GOOD, 7)


def test_all_of_a_minority_are_repaired(make_ledger: Callable[..., Ledger]) -> None:
    """Each with one PUT, each with its own state kept aside."""
    ledger = make_ledger(a=GOOD, b=GOOD, c=GOOD, d=BAD, e=OTHER)
    assert ledger.repair()[1].status is Status.SUCCEEDED
    assert set(ledger.states().values()) == {GOOD}
    assert ledger.puts() == {"d": 1, "e": 1}
    assert sorted(ledger.aside().values()) == sorted([BAD, OTHER])


def test_the_only_replica_is_rebuilt_from_a_backup(make_ledger: Callable[..., Ledger]) -> None:
    """Two backups with different failure domains outvote it."""
    ledger = make_ledger(a=BAD)
    ledger.backup("nightly")
    ledger.backup("offsite")
    before, outcome = ledger.repair()
    assert (outcome.status, before["source"]) == (Status.SUCCEEDED, "nightly")
    assert ledger["a"].state == GOOD


def test_backups_and_kept_states_can_be_anywhere_that_fsspec_reaches(
    make_ledger: Callable[..., Ledger],
) -> None:
    """Here in fsspec's memory, in place of a bucket."""
    ledger = make_ledger(a=BAD)
    for name in ("one", "two"):
        path = ledger.backup(name)
        for suffix in ("", ".manifest.json"):
            with fsspec.open(f"memory://backups/{name}{suffix}", "wb") as file:
                file.write(Path(f"{path}{suffix}").read_bytes())
        ledger.backups[-1]["path"] = f"memory://backups/{name}"
        path.unlink()
    ledger.changes["keep_aside"] = "memory://kept/"
    before, outcome = ledger.repair()
    assert outcome.status is Status.SUCCEEDED
    assert ledger["a"].state == GOOD
    with fsspec.open(f"memory://kept/ledger/a/7-{digest_of(BAD)}") as file:
        assert file.read() == BAD
    undo = ledger.effect().undo(before)
    assert undo is not None
    assert undo.perform(key="k", attempt=1, before=undo.snapshot(), permit=allowed).status is Status.SUCCEEDED
    assert ledger["a"].state == BAD


def test_a_voter_that_is_away_does_not_stop_a_majority(make_ledger: Callable[..., Ledger]) -> None:
    """Three of five are more than half; the fifth is named."""
    ledger = make_ledger(a=GOOD, b=GOOD, c=GOOD, d=BAD, e=GOOD)
    ledger["e"].vanish()
    before, outcome = ledger.repair()
    assert outcome.status is Status.SUCCEEDED
    assert ledger["d"].state == GOOD
    assert "e: http" in before["votes"]


def test_a_stale_backup_has_no_vote_and_does_no_harm(ledger: Ledger) -> None:
    """It shares the failure domain of the replica that it was taken from."""
    ledger.backup("old", OTHER, 6, domain="a")
    before, outcome = ledger.repair()
    assert outcome.status is Status.SUCCEEDED
    assert "old holds" in before["votes"]
    assert ledger["c"].state == GOOD


def test_the_token_goes_to_every_replica_and_is_read_anew(ledger: Ledger, tmp_path: Path) -> None:
    """As everywhere; without the file no replica can be read."""
    token = tmp_path / "token"
    ledger.changes["bearer_token_file"] = str(token)
    assert "no replica can be read" in ledger.refusal()
    token.write_text("secret\n")
    assert ledger.repair()[1].status is Status.SUCCEEDED
    assert set(ledger["a"].tokens) == {"Bearer secret"}


# What is refused.


def lie(ledger: Ledger) -> None:
    """c says that it holds what the others hold."""
    ledger["c"].says = digest_of(GOOD)


def vary(ledger: Ledger) -> None:
    """c is written while it is read."""

    def write() -> None:
        ledger["c"].state, ledger["c"].version = OTHER, 8
        ledger["c"].on_read = lambda: None

    ledger["c"].on_read = write


def vary_later(ledger: Ledger) -> None:
    """b is written between the two looks."""
    asked: list[int] = []

    def write() -> None:
        asked.append(1)
        if len(asked) == 2:
            ledger["b"].state = OTHER

    ledger["b"].on_claim = write


def vary_and_return(ledger: Ledger) -> None:
    """c is another while its bytes are read, and as before when it is asked again."""

    def come(state: bytes, version: int) -> None:
        ledger["c"].state, ledger["c"].version = state, version

    ledger["c"].on_read = lambda: come(OTHER, 8)
    ledger["c"].on_claim = lambda: come(BAD, 7)


def vary_in_the_pause(ledger: Ledger) -> None:
    """a is written some time after it was read."""
    ledger.changes["pause"] = "600ms"

    def write() -> None:
        ledger["a"].state = OTHER

    later = threading.Timer(0.2, write)
    ledger["a"].on_read = later.start


def set_versions(**versions: int) -> Callable[[Ledger], None]:
    def change(ledger: Ledger) -> None:
        for name, version in versions.items():
            ledger[name].version = version

    return change


def common_domain(ledger: Ledger) -> None:
    """a and b stand in one rack, and a fourth is away."""
    ledger.domains.update(a="rack", b="rack")
    ledger.backup("gone").unlink()


def packed(ledger: Ledger) -> None:
    """The replicas pack their answers though nobody asks for it."""
    for name in "abc":
        ledger[name].packs = True


def too_large(ledger: Ledger) -> None:
    ledger.changes["max_bytes"] = len(GOOD) - 1


def large_backup(ledger: Ledger) -> None:
    ledger.backup("n", GOOD + GOOD)
    ledger.changes["max_bytes"] = len(GOOD)


REFUSED: list[tuple[str, Callable[[Ledger], Any], str]] = [
    ("lying replica", lie, "c: lies: its digest is said to be"),
    ("stale majority", set_versions(c=8), "the majority holds version 7, but c holds version 8"),
    ("tie", lambda ledger: ledger.backup("n", BAD), "a tie: at most 2 of 4"),
    ("no majority", lambda ledger: ledger["b"].vanish(), "a tie: at most 1 of 3"),
    ("common failure domain", common_domain, "a tie: at most 1 of 3"),
    ("all the same", lambda ledger: setattr(ledger["c"], "state", GOOD), "already"),
    (
        "truncated backup",
        lambda ledger: ledger.backup("n", GOOD[:-9], bytes=len(GOOD), digest=digest_of(GOOD)),
        f"n: is truncated: it has {len(GOOD) - 9} bytes, its manifest says {len(GOOD)}",
    ),
    (
        "tampered backup",
        lambda ledger: ledger.backup("n", BAD, digest=digest_of(GOOD)),
        "n: was tampered with or damaged: its digest is said to be",
    ),
    (
        "newer backup",
        lambda ledger: ledger.backup("n", OTHER, 8, domain="a"),
        "n is a backup of version 8, newer than every replica",
    ),
    (
        "backup without a manifest",
        lambda ledger: ledger.backup("n", bytes=None),
        "does not say how many `bytes`",
    ),
    ("digests of another kind", lambda ledger: ledger.backup("n", algorithm="md5"), "of another algorithm"),
    ("too large", too_large, "answers with more than"),
    ("packed", packed, "its answer is packed (gzip), which was not asked for"),
    ("too large a backup", large_backup, "n.state has more than"),
]


@pytest.mark.parametrize(("change", "why"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED])
def test_doubt_refuses_with_its_reason_and_touches_nothing(
    ledger: Ledger, change: Callable[[Ledger], Any], why: str
) -> None:
    """No order, nothing kept aside, every replica as it was; the reason names who is to blame."""
    change(ledger)
    assert why in ledger.refusal()


@pytest.mark.parametrize(
    ("change", "who"), [(vary, "c"), (vary_later, "b"), (vary_and_return, "c"), (vary_in_the_pause, "a")]
)
def test_a_state_that_changes_while_it_is_read_is_left_alone(
    ledger: Ledger, change: Callable[[Ledger], None], who: str
) -> None:
    """Written during the first look, between the two, or only for a moment: nobody can tell what is right."""
    change(ledger)
    with pytest.raises(NotApplicable, match=f"{who}: its state changes while it is read"):
        ledger.effect().snapshot()
    assert (ledger.puts(), ledger.aside()) == ({}, {})


def test_a_liar_stops_a_repair_that_had_a_majority(make_ledger: Callable[..., Ledger]) -> None:
    """Where states are altered unseen nothing is overwritten, although three of five agree."""
    ledger = make_ledger(a=GOOD, b=GOOD, c=GOOD, d=BAD, e=OTHER)
    ledger["e"].says = digest_of(GOOD)
    assert "e: lies" in ledger.refusal()


@pytest.mark.parametrize(
    "answer",
    [
        b"no json",
        b"[]",
        b"{}",
        b'{"digest": "a", "version": 7}',
        json.dumps({"digest": "a" * 64, "version": -1, "bytes": 1}).encode(),
        json.dumps({"digest": "a" * 64, "version": True, "bytes": 1}).encode(),
        json.dumps({"digest": "a" * 64, "version": 7, "bytes": -1}).encode(),
        json.dumps({"digest": "A" * 64, "version": 7, "bytes": 1}).encode(),
        b"[" * 20_000,
    ],
)
def test_a_manifest_of_the_wrong_shape_is_no_vote(ledger: Ledger, answer: bytes) -> None:
    """Two of four are no majority then; the manifest is named."""
    path = ledger.backup("n")
    Path(f"{path}.manifest.json").write_bytes(answer)
    assert f"n: {path}.manifest.json does not hold JSON with `digest`" in ledger.refusal()


def test_without_its_settings_it_is_not_for_the_service() -> None:
    """The reason says what is missing."""
    known = strategies(Settings(services={"cart": {}}))  # type: ignore[dict-item]
    with pytest.raises(NotApplicable, match=r"cart has no `recovery.state`"):
        known["repair"].on("cart")
    assert known["repair"].disruptive


def test_without_fsspec_it_says_what_to_install(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything else is tried: the damaged state could not be kept."""
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(NotApplicable, match=r"self-healing-fabric\[state\]"):
        ledger.effect()


def test_a_driver_that_is_not_installed_is_a_voter_that_cannot_be_read(ledger: Ledger) -> None:
    """As s3 without s3fs; the message is fsspec's."""
    ledger.backup("n")
    ledger.backups[-1]["path"] = "nosuch://bucket/state"
    assert "n: nosuch://bucket/state.manifest.json cannot be read" in ledger.refusal()


# What goes wrong on the way.


def test_without_a_permit_no_order_is_sent(ledger: Ledger) -> None:
    """The state is kept aside by then; the replica hears nothing."""
    _, outcome = ledger.repair(permit=lambda: False)
    assert (outcome.status, outcome.retry_in) == (Status.FAILED, 0.0)
    assert ledger.puts() == {}
    assert ledger["c"].state == BAD


def test_the_permit_is_asked_when_all_else_is_done(ledger: Ledger) -> None:
    """The damaged state is safe before anybody allows its end."""
    kept: list[dict[str, bytes]] = []

    def permit() -> bool:
        kept.append(ledger.aside())
        return True

    ledger.repair(permit)
    assert kept == [{f"c/7-{digest_of(BAD)}": BAD}]


def test_a_state_that_cannot_be_kept_aside_is_not_replaced(ledger: Ledger) -> None:
    """A file stands where the folder should be."""
    (ledger.directory / "aside").write_text("in the way")
    _, outcome = ledger.repair()
    assert outcome.status is Status.FAILED
    assert "cannot be written" in outcome.detail
    assert ledger.puts() == {}


def test_half_a_copy_is_not_left_on_a_full_disk(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be the disk of the fabric's own store; and nobody may take it for the state."""

    def fill(_: Any, path: str, data: bytes) -> None:
        Path(path).write_bytes(data[:100])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("fsspec.implementations.local.LocalFileSystem.pipe_file", fill)
    _, outcome = ledger.repair()
    assert outcome.status is Status.FAILED
    assert "No space left on device" in outcome.detail
    assert (ledger.puts(), ledger.aside()) == ({}, {})


def test_a_try_that_fails_late_does_not_remove_what_a_later_one_has_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It hung, was given up, and fails when the next one has written the whole."""
    path = tmp_path / "kept"

    def fail_late(*_: Any) -> None:
        path.write_bytes(BAD)
        raise OSError("gone")

    monkeypatch.setattr("fsspec.implementations.local.LocalFileSystem.pipe_file", fail_late)
    with pytest.raises(states.Unreadable):
        states.keep(str(path), BAD)
    assert path.read_bytes() == BAD


def test_nobody_else_on_the_machine_may_read_what_is_kept(ledger: Ledger) -> None:
    """Whatever the umask of the fabric is: the state may hold what only the service's users should see."""
    before_it = os.umask(0o022)
    try:
        ledger.repair()
    finally:
        os.umask(before_it)
    assert (ledger.directory / "aside" / "ledger" / "c").stat().st_mode & 0o077 == 0


def test_what_was_kept_aside_is_read_back(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that swallows what is written to it keeps nothing."""
    monkeypatch.setattr("fsspec.implementations.local.LocalFileSystem.pipe_file", lambda *_: None)
    _, outcome = ledger.repair()
    assert outcome.status is Status.FAILED
    assert "does not hold what was written" in outcome.detail
    assert ledger.puts() == {}


def test_what_is_kept_outlives_a_power_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before it is called kept, file and folder are on the disk; also what a killed fabric had written."""
    brought: list[int] = []
    real = os.fsync

    def fsync(opened: int) -> None:
        brought.append(os.fstat(opened).st_ino)
        real(opened)

    monkeypatch.setattr(os, "fsync", fsync)
    path = tmp_path / "aside" / "kept"
    states.keep(str(path), BAD)
    whole = [path.stat().st_ino, path.parent.stat().st_ino]
    assert brought == whole
    states.keep(str(path), BAD)
    assert brought == 2 * whole


def test_a_half_written_copy_from_before_is_written_anew(ledger: Ledger) -> None:
    """A crash may have cut it off; a whole one is left as it is."""
    path = ledger.directory / "aside" / "ledger" / "c" / f"7-{digest_of(BAD)}"
    path.parent.mkdir(parents=True)
    path.write_bytes(BAD[:5])
    assert ledger.repair()[1].status is Status.SUCCEEDED
    assert path.read_bytes() == BAD


def test_a_state_that_changed_after_the_vote_is_not_replaced(ledger: Ledger) -> None:
    """The replica refuses with 412, and keeps what was written to it meanwhile."""

    def permit() -> bool:
        ledger["c"].state = OTHER
        return True

    _, outcome = ledger.repair(permit)
    assert outcome.status is Status.FAILED
    assert "somebody has changed" in outcome.detail
    assert ledger["c"].state == OTHER
    assert [put.status for put in ledger["c"].puts] == [412]


def test_a_state_that_a_proxy_has_sent_twice_is_there(ledger: Ledger) -> None:
    """The replica answers the second with 412, for it holds what it got by the first."""
    ledger["c"].answer = 412
    _, outcome = ledger.repair()
    assert (outcome.status, ledger["c"].state) == (Status.SUCCEEDED, GOOD)


def test_a_replica_that_vanishes_before_the_order_was_not_changed(ledger: Ledger) -> None:
    """A refused connection carried nothing."""
    effect = ledger.effect()
    before = effect.snapshot()
    ledger["c"].vanish()
    outcome = effect.perform(key=KEY, attempt=1, before=before, permit=allowed)
    assert outcome.status is Status.FAILED
    assert "cannot be reached" in outcome.detail


def test_a_replica_that_vanishes_with_the_order_is_asked_again(ledger: Ledger) -> None:
    """It may have taken the state or not, and cannot be asked just now."""

    def permit() -> bool:
        ledger["c"].vanish()
        return True

    _, outcome = ledger.repair(permit)
    assert isinstance(outcome, Untold)


@pytest.mark.parametrize("answer", [500, 302, 503])
def test_what_another_answer_means_is_learnt_from_the_bytes(ledger: Ledger, answer: int) -> None:
    """It answered an error and has taken the state all the same: succeeded, with one PUT."""
    ledger["c"].answer = answer
    assert ledger.repair()[1].status is Status.SUCCEEDED
    assert ledger.puts() == {"c": 1}


def test_a_replica_that_restarts_itself_with_its_new_state_is_asked_when_it_is_back(ledger: Ledger) -> None:
    """It breaks off its answer and answers nobody until it is back: no reason to call people."""
    ledger["c"].answer, ledger["c"].away = 502, 2
    before, outcome = ledger.repair()
    assert outcome.status is Status.SUCCEEDED
    assert ledger.puts() == {"c": 1}
    ledger["c"].away = 1
    assert isinstance(ledger.effect().observe(before), Untold)  # it is asked again
    assert ledger.effect().observe(before).status is Status.SUCCEEDED


@pytest.mark.parametrize("answer", [204, 500])
def test_a_replica_that_keeps_what_it_had_is_not_believed(ledger: Ledger, answer: int) -> None:
    """Whether it says that it took the state or not: its bytes are others."""
    ledger["c"].deaf, ledger["c"].answer = True, answer
    _, outcome = ledger.repair()
    assert outcome.status is Status.INDETERMINATE
    assert f"c still holds {digest_of(BAD)[:12]}" in outcome.detail


def test_a_replica_that_only_says_that_it_took_the_state_is_not_believed(ledger: Ledger) -> None:
    """Its digest is right afterwards, its bytes are not."""
    ledger["c"].deaf, ledger["c"].answer = True, 200
    ledger["c"].on_put = lambda: setattr(ledger["c"], "says", digest_of(GOOD))
    before, outcome = ledger.repair()
    assert outcome.status is Status.INDETERMINATE
    assert ledger.effect().observe(before).status is Status.FAILED


def test_a_part_that_was_done_is_said_honestly(make_ledger: Callable[..., Ledger]) -> None:
    """The first took it, the second was changed meanwhile: neither success nor failure; the third is left."""
    ledger = make_ledger(a=GOOD, b=GOOD, c=GOOD, d=GOOD, e=BAD, f=OTHER, g=BAD)
    effect = ledger.effect()
    before = effect.snapshot()
    ledger["f"].state = b"written meanwhile"
    outcome = effect.perform(key=KEY, attempt=1, before=before, permit=allowed)
    assert outcome.status is Status.INDETERMINATE
    assert outcome.detail.startswith("only a part was done: e holds")
    assert "412" in outcome.detail
    assert ledger.puts() == {"e": 1, "f": 1}
    assert (ledger["f"].state, ledger["g"].state) == (b"written meanwhile", BAD)
    assert ledger.effect().observe(before).status is Status.INDETERMINATE


def test_a_whole_copy_from_before_is_not_written_again(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So the second try has the time that the first one spent on it."""
    path = ledger.directory / "aside" / "ledger" / "c" / f"7-{digest_of(BAD)}"
    path.parent.mkdir(parents=True)
    path.write_bytes(BAD)

    def fail(*_: Any) -> None:
        raise OSError("full")

    monkeypatch.setattr("fsspec.implementations.local.LocalFileSystem.pipe_file", fail)
    assert ledger.repair()[1].status is Status.SUCCEEDED


class Remote(MemoryFileSystem):
    """A store far away that remembers what it has read, and can hang."""

    protocol = "remote"
    hangs: threading.Event | None = None
    remembered: ClassVar[dict[str, bytes]] = {}

    def open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        if self.hangs:
            self.hangs.wait(30)
        if mode == "rb" and path not in self.remembered:
            with super().open(path) as file:
                self.remembered[path] = file.read()
        return io.BytesIO(self.remembered[path]) if mode == "rb" else super().open(path, mode, **options)

    def invalidate_cache(self, path: str | None = None) -> None:
        self.remembered.clear()


@pytest.fixture
def remote(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Remote]]:
    """remote:// for fsspec."""
    fsspec.register_implementation("remote", Remote, clobber=True)
    monkeypatch.setattr(Remote, "hangs", None)
    yield Remote
    if Remote.hangs:
        Remote.hangs.set()


def test_a_backup_that_was_replaced_is_read_anew(make_ledger: Callable[..., Ledger], remote: Any) -> None:
    """A driver that remembers would let a backup vote that is not there any more."""
    ledger = make_ledger(a=GOOD, b=BAD)
    path = ledger.backup("n")
    ledger.backups[-1]["path"] = "remote://n"

    def upload() -> None:
        for suffix in ("", ".manifest.json"):
            Remote().pipe_file(f"remote://n{suffix}", Path(f"{path}{suffix}").read_bytes())

    upload()
    assert ledger.effect().snapshot()["source"] == "a"
    ledger.backup("n", BAD)
    ledger.backups.pop()
    upload()
    assert ledger.effect().snapshot()["source"] == "b"


def test_a_store_that_hangs_is_given_up_after_one_timeout(ledger: Ledger, remote: Any) -> None:
    """Drivers have no common timeout, so nobody waits for them."""
    remote.hangs = threading.Event()
    ledger.backup("n")
    ledger.backups[-1]["path"] = "remote://n"
    ledger.changes["timeout"] = 0.5
    assert "n: no answer within 0.5 s" in within_deadline(ledger.refusal)


def test_a_folder_that_hangs_stops_the_repair_after_one_timeout(ledger: Ledger, remote: Any) -> None:
    """On the way there and on the way back; nothing is sent in either."""
    ledger.changes.update(timeout=0.5, keep_aside="remote://kept")
    repaired, _ = ledger.repair()
    ledger["c"].state = BAD + BAD
    effect = ledger.effect()
    before, undo = effect.snapshot(), effect.undo(repaired)
    assert undo is not None
    remote.hangs = threading.Event()
    outcome = within_deadline(lambda: effect.perform(key=KEY, attempt=1, before=before, permit=allowed))
    ledger["c"].state = GOOD
    back = within_deadline(lambda: undo.perform(key=KEY, attempt=1, before=undo.snapshot(), permit=allowed))
    assert [each.status for each in (outcome, back)] == [Status.FAILED, Status.FAILED]
    assert "no answer within 0.5 s" in outcome.detail
    assert ledger.puts() == {"c": 1}


def test_a_replica_that_drips_is_given_up_after_one_timeout(ledger: Ledger) -> None:
    """Each byte comes in time; the whole of them does not."""
    before, _ = ledger.repair()
    ledger.changes["timeout"] = 0.5
    ledger["c"].drips = True
    with pytest.raises(TargetUnreadable, match=r"takes longer than 0.5 s"):
        within_deadline(lambda: ledger.effect().settled(before))


def test_a_state_is_not_sent_for_ever() -> None:
    """A replica that takes it byte by byte gets only a part, which is none."""
    with pytest.raises(httpx.WriteTimeout):
        list(states._pieces(GOOD, -1.0))
    assert b"".join(states._pieces(GOOD * 9, 9.0)) == GOOD * 9


# What is learnt afterwards.


def test_after_a_crash_the_replicas_tell_what_became_of_it(ledger: Ledger) -> None:
    """By another process, from their bytes; looking changes nothing."""
    before = json.loads(json.dumps(ledger.effect().snapshot()))
    observe = ledger.effect().observe
    assert observe(before).status is Status.FAILED
    ledger["c"].state = GOOD
    assert observe(before).status is Status.SUCCEEDED
    ledger["c"].state = OTHER
    assert type(observe(before)) is Outcome
    assert observe(before).status is Status.INDETERMINATE
    ledger["c"].vanish()
    assert isinstance(observe(before), Untold)
    assert ledger.puts() == {}


def test_an_effect_of_another_process_does_not_replace_what_it_has_not_read(ledger: Ledger) -> None:
    """The bytes were read for the vote; without them nothing is sent."""
    before = ledger.effect().snapshot()
    outcome = ledger.effect().perform(key=KEY, attempt=1, before=before, permit=allowed)
    assert outcome.status is Status.FAILED
    assert ledger.puts() == {}


def test_settled_means_that_every_replica_holds_the_state(ledger: Ledger) -> None:
    """It is asked for the bytes."""
    before, _ = ledger.repair()
    settled = ledger.effect().settled
    assert settled(before).progress is Progress.DONE
    ledger["c"].state, ledger["c"].says = BAD, digest_of(GOOD)
    assert settled(before).progress is Progress.FAILED
    ledger["c"].vanish()
    with pytest.raises(TargetUnreadable):
        settled(before)


def test_a_replica_that_was_written_since_is_settled(ledger: Ledger) -> None:
    """Users go on: a later version is no failure, another state of the same version is."""
    before, _ = ledger.repair()
    ledger["c"].state, ledger["c"].version = OTHER, 8
    assert ledger.effect().settled(before).progress is Progress.DONE
    assert ledger.effect().observe(before).status is Status.INDETERMINATE
    ledger["c"].version = 7
    assert ledger.effect().settled(before).progress is Progress.FAILED
    ledger["c"].version, ledger["c"].says = 8, digest_of(GOOD)
    assert ledger.effect().settled(before).progress is Progress.FAILED


def test_a_replica_that_is_not_configured_any_more_cannot_tell(ledger: Ledger) -> None:
    """Between the repair and the look at it the configuration was changed."""
    before, _ = ledger.repair()
    ledger.replicas["d"] = ledger.replicas.pop("c")
    assert "c is not configured any more" in ledger.effect().observe(before).detail


def test_undo_restores_the_damaged_state_byte_for_byte(ledger: Ledger) -> None:
    """By another process; only if the replica still holds what it got."""
    ledger["c"].version = 3
    before, _ = ledger.repair()
    undo = ledger.effect().undo(before)
    assert undo is not None
    back = json.loads(json.dumps(undo.snapshot()))
    outcome = undo.perform(key="k2", attempt=1, before=back, permit=allowed)
    assert outcome.status is Status.SUCCEEDED
    assert (ledger["c"].state, ledger["c"].version) == (BAD, 3)
    assert ledger["c"].puts[-1].if_match == f'"{digest_of(GOOD)}"'
    assert undo.observe(back).status is Status.SUCCEEDED
    assert undo.undo(back) is None
    assert undo.target == ledger.effect().target


def test_undo_leaves_what_was_written_since(ledger: Ledger) -> None:
    """A write after the repair is worth more than the way back."""
    before, _ = ledger.repair()
    undo = ledger.effect().undo(before)
    assert undo is not None
    ledger["c"].state = OTHER
    with pytest.raises(NotApplicable, match="is left as it is"):
        undo.snapshot()
    ledger["c"].vanish()
    with pytest.raises(TargetUnreadable):
        undo.snapshot()


def test_undo_does_not_bring_back_what_is_not_the_kept_state(ledger: Ledger) -> None:
    """The copy was changed, or is gone: nothing is sent."""
    before, _ = ledger.repair()
    undo = ledger.effect().undo(before)
    assert undo is not None
    path = Path(before["replicas"]["c"]["aside"])
    path.write_bytes(OTHER)
    changed = undo.perform(key="k", attempt=1, before=undo.snapshot(), permit=allowed)
    path.unlink()
    gone = undo.perform(key="k", attempt=1, before=undo.snapshot(), permit=allowed)
    assert [outcome.status for outcome in (changed, gone)] == [Status.FAILED, Status.FAILED]
    assert ledger["c"].state == GOOD


# What surrounds it.


def test_guardrails_count_it_with_the_other_repairs_of_the_service(ledger: Ledger) -> None:
    """The target is the service's, also where it can be restarted too."""
    assert ledger.effect().target == "service:ledger"
    values = ledger.settings.services["ledger"].recovery.state
    recovery = {"state": values, "docker": {"container": "ledger"}}
    known = strategies(Settings(services={"ledger": {"recovery": recovery}}))  # type: ignore[dict-item]
    assert known["repair"].on("ledger").target == known["restart"].on("ledger").target


def test_the_longest_effect_covers_the_order(ledger: Ledger) -> None:
    """A state that is still being sent must not be looked at yet."""
    ledger.changes["timeout"] = 7
    assert ledger.effect().longest_effect >= BEGINS_WITHIN + 2 * 7


def test_a_replica_that_never_answers_takes_one_timeout(ledger: Ledger) -> None:
    """All are asked beside each other, and who is away is not asked again."""
    ledger.changes["timeout"] = 0.5
    given_up = threading.Event()
    ledger["c"].on_claim = lambda: given_up.wait(60)
    try:
        assert "already" in within_deadline(ledger.refusal)
    finally:
        given_up.set()


def test_checking_asks_every_voter_and_changes_nothing(ledger: Ledger) -> None:
    """It names those that cannot tell their digest."""
    assert ledger.effect().check() == "3 voters tell 2 states"
    ledger.backup("n").with_name("n.state.manifest.json").unlink()
    with pytest.raises(TargetUnreadable, match=r"n: .* does not exist"):
        ledger.effect().check()
    assert ledger.puts() == {}
