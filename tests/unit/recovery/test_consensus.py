"""Who wins: one vote a failure domain, more than half of all that are configured, never an older state."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from self_healing_fabric.recovery.consensus import (
    Held,
    Majority,
    NoMajority,
    Silent,
    Suspect,
    Vote,
    Voter,
    decide,
)

GOOD, BAD, OTHER = "a" * 64, "b" * 64, "c" * 64


def held(name: str, digest: str = GOOD, version: int = 7, *, domain: str | None = None, **more: Any) -> Held:
    """The vote of a voter in a domain of its own."""
    return Held(Voter(name, domain or name, **more), digest, version)


def silent(name: str, domain: str | None = None) -> Silent:
    return Silent(Voter(name, domain or name), "does not answer")


def backup(name: str, digest: str = GOOD, version: int = 7, domain: str | None = None) -> Held:
    return held(name, digest, version, domain=domain, is_replica=False)


def majority(*votes: Vote) -> Majority:
    found = decide(votes)
    assert isinstance(found, Majority), found
    return found


def refusal(*votes: Vote) -> str:
    found = decide(votes)
    assert isinstance(found, NoMajority), found
    return found.why


def test_the_one_that_differs_is_repaired_from_a_peer() -> None:
    """Two of three domains agree: the third is the minority, and the sentence names all of them."""
    found = majority(held("a"), held("b"), held("c", BAD))
    assert (found.digest, found.version, found.source.name) == (GOOD, 7, "a")
    assert [vote.voter.name for vote in found.minority] == ["c"]
    assert found.votes == (
        "2 of 3 failure domains hold aaaaaaaaaaaa (version 7): a, b; c holds bbbbbbbbbbbb (version 7)"
    )


def test_a_replica_that_lags_behind_is_repaired_too() -> None:
    """Its version is stale, so it has no vote; it holds another state than the majority."""
    assert [vote.voter.name for vote in majority(held("a"), held("b"), held("c", OTHER, 3)).minority] == ["c"]


def test_backups_vote_and_are_the_source_when_no_replica_is_right() -> None:
    """Two backups outvote the only replica, which is rebuilt from one of them."""
    found = majority(held("a", BAD), backup("nightly"), backup("offsite"))
    assert (found.source.name, [vote.voter.name for vote in found.minority]) == ("nightly", ["a"])


def test_a_peer_is_preferred_to_a_backup() -> None:
    """Whatever their names."""
    assert majority(held("z"), backup("a"), held("m", BAD)).source.name == "z"


def test_a_stale_backup_is_no_vote_and_does_not_spoil_the_one_of_its_domain() -> None:
    """An older backup beside a replica in one domain: the replica speaks for the domain."""
    found = majority(
        held("a", domain="one"), backup("old", OTHER, 3, domain="one"), held("b"), held("c", BAD)
    )
    assert found.votes.startswith("2 of 3 failure domains")


REFUSED: list[tuple[str, list[Vote], str]] = [
    ("tie", [held("a"), held("b"), held("c", BAD), held("d", BAD)], "a tie: at most 2 of 4"),
    ("all differ", [held("a"), held("b", BAD), held("c", OTHER)], "a tie: at most 1 of 3"),
    (
        "half is not enough",
        [held("a"), held("b"), held("c", BAD), silent("d")],
        "no majority: at most 2 of 4",
    ),
    ("of those that answer", [held("a"), held("b", BAD), silent("c")], "a tie: at most 1 of 3"),
    ("most are silent", [held("a"), silent("b"), silent("c")], "no majority: at most 1 of 3"),
    (
        "a common domain is one vote",
        [held("a", domain="rack"), held("b", domain="rack"), held("c", BAD), silent("d")],
        "a tie: at most 1 of 3",
    ),
    (
        "a domain that disagrees abstains",
        [held("a", domain="rack"), held("b", BAD, domain="rack"), held("c"), held("d", OTHER)],
        "a tie: at most 1 of 3",
    ),
    (
        "older majority",
        [held("a", version=6), held("b", version=6), held("c", BAD, 7)],
        "the majority holds version 6, but c holds version 7, which may contain acknowledged writes",
    ),
    (
        "newer backup",
        [held("a"), held("b"), held("c", BAD), backup("n", OTHER, 8, domain="a")],
        "n is a backup of version 8, newer than every replica",
    ),
    (
        "newer backups in the majority",
        [held("a"), backup("l", OTHER, 8), backup("m", OTHER, 8), backup("n", OTHER, 8)],
        "newer than every replica",
    ),
    (
        "a liar",
        [held("a"), held("b"), held("c", BAD), Suspect(Voter("x", "a"), "says this and holds that")],
        "x: says this and holds that",
    ),
    ("no replica", [silent("a"), backup("m"), backup("n"), backup("o")], "no replica can be read"),
    ("nothing is wrong", [held("a"), held("b"), silent("c")], "holds aaaaaaaaaaaa (version 7) already"),
]


@pytest.mark.parametrize(("votes", "why"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED])
def test_refusals_say_why(votes: list[Vote], why: str) -> None:
    """Each in words that name who said what."""
    assert why in refusal(*votes)


VOTES = st.lists(
    st.tuples(
        st.sampled_from(["held", "held", "held", "held", "silent", "suspect"]),
        st.sampled_from("uvwxyz"),
        st.sampled_from([GOOD, GOOD, BAD, OTHER]),
        st.sampled_from([6, 7, 7, 7, 8]),
        st.sampled_from([True, True, False]),
    ),
    min_size=1,
    max_size=9,
).map(lambda drawn: [_vote(number, *each) for number, each in enumerate(drawn)])


def _vote(number: int, kind: str, domain: str, digest: str, version: int, is_replica: bool) -> Vote:
    voter = Voter(f"voter{number}", domain, is_replica)
    if kind == "held":
        return Held(voter, digest, version)
    return Silent(voter, "is away") if kind == "silent" else Suspect(voter, "lies")


@given(VOTES)
def test_a_winner_is_held_in_more_than_half_of_the_configured_domains(votes: list[Vote]) -> None:
    """Counted anew and otherwise: whole domains that hold the winner and, at its version, nothing else."""
    found = decide(votes)
    if not isinstance(found, Majority):
        return
    domains = {vote.voter.domain for vote in votes}
    agree = 0
    for domain in domains:
        said = {
            vote.digest
            for vote in votes
            if isinstance(vote, Held) and vote.voter.domain == domain and vote.version == found.version
        }
        agree += said == {found.digest}
    assert agree > len(domains) / 2


@given(VOTES)
def test_a_winner_is_of_the_newest_version_and_nobody_lies(votes: list[Vote]) -> None:
    """Nothing that anyone holds with a right checksum is newer than what is copied."""
    found = decide(votes)
    if isinstance(found, Majority):
        assert found.version == max(vote.version for vote in votes if isinstance(vote, Held))
        assert not any(isinstance(vote, Suspect) for vote in votes)


@given(VOTES)
def test_only_replicas_that_hold_something_else_are_repaired(votes: list[Vote]) -> None:
    """From someone who holds the winner; and all of them are."""
    found = decide(votes)
    if isinstance(found, Majority):
        held_by = {vote.voter: vote.digest for vote in votes if isinstance(vote, Held)}
        assert held_by[found.source] == found.digest
        others = [
            vote
            for vote in votes
            if isinstance(vote, Held) and vote.voter.is_replica and vote.digest != found.digest
        ]
        assert others
        assert sorted(others, key=lambda vote: vote.voter.name) == list(found.minority)


@given(VOTES, st.randoms(use_true_random=False))
def test_the_order_does_not_matter(votes: list[Vote], random: Any) -> None:
    """Also not for the words."""
    mixed = list(votes)
    random.shuffle(mixed)
    assert decide(mixed) == decide(votes)


@given(VOTES, st.data())
def test_a_voter_counted_twice_in_its_domain_changes_no_count(votes: list[Vote], data: Any) -> None:
    """A copy of a voter in the same domain never makes a majority of none, nor another winner."""
    vote = data.draw(st.sampled_from(votes))
    voter = vote.voter
    copy = Voter(f"{voter.name}-copy", voter.domain, voter.is_replica)
    twin = Held(copy, vote.digest, vote.version) if isinstance(vote, Held) else type(vote)(copy, vote.why)
    first, second = decide(votes), decide([*votes, twin])
    assert isinstance(first, Majority) is isinstance(second, Majority)
    if isinstance(first, Majority) and isinstance(second, Majority):
        assert (first.digest, first.version) == (second.digest, second.version)
