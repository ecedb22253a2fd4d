"""Which state is the right one, when replicas that must hold the same state do not.

"Take what most replicas say" destroys data in four ways: one common source is counted several times, those
that do not answer are left out of the count until a minority is the majority, an old majority wins over a new
state that holds acknowledged writes, and a voter is believed that says one thing and holds another. So:

- a voter speaks for its failure domain, and a domain has one vote however many voters it has;
- the winner needs more than half of the configured domains, not of those that answered;
- only voters of the newest version are counted; a majority for an older one refuses, whoever holds the newer;
- a voter that contradicts itself refuses everything: where states are altered unseen, none is overwritten.

Nothing is read here: the votes come in as values, so that every rule can be tested with every order of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

SHOWN = 12  # hexadecimal digits of a digest in a sentence, as in the label of the metric


@dataclass(frozen=True)
class Voter:
    """A replica or a backup. `domain`: what it shares with others that fail together with it."""

    name: str
    domain: str
    is_replica: bool = True


@dataclass(frozen=True)
class Held:
    """What a voter holds: the digest of its very bytes, and the version that it gives them."""

    voter: Voter
    digest: str
    version: int


@dataclass(frozen=True)
class Silent:
    """A voter that could not be read: its domain counts, its vote does not."""

    voter: Voter
    why: str


@dataclass(frozen=True)
class Suspect:
    """A voter whose state is not what it says, or changes while it is read: nothing may be overwritten."""

    voter: Voter
    why: str


Vote = Held | Silent | Suspect


@dataclass(frozen=True)
class Majority:
    """The state that more than half of the domains hold, and who holds another.

    Attributes:
        digest, version: of the winner.
        source: who holds it and is copied: a replica where there is one, else a backup.
        minority: replicas that hold another state, by name; never empty.
        votes: how it was decided, as a sentence without its full stop.
    """

    digest: str
    version: int
    source: Voter
    minority: tuple[Held, ...]
    votes: str


@dataclass(frozen=True)
class NoMajority:
    """Why nothing may be repaired, as a sentence without its full stop."""

    why: str


def decide(votes: Sequence[Vote]) -> Majority | NoMajority:
    """Count the votes of all configured voters; the order does not matter."""
    votes = sorted(votes, key=lambda vote: vote.voter.name)
    held = [vote for vote in votes if isinstance(vote, Held)]
    suspects = [f"{vote.voter.name}: {vote.why}" for vote in votes if isinstance(vote, Suspect)]
    if suspects:
        return NoMajority("; ".join(suspects))
    replicas = [vote for vote in held if vote.voter.is_replica]
    if not replicas:
        return NoMajority(f"no replica can be read{_others(votes, None)}")
    newest = max(held, key=lambda vote: vote.version)
    if newest.version > max(vote.version for vote in replicas):
        return NoMajority(
            f"{newest.voter.name} is a backup of version {newest.version}, newer than every replica: they may"
            " have lost writes"
        )
    configured = len({vote.voter.domain for vote in votes})
    tally = _tally(held, newest.version)
    winner = max(tally, key=lambda digest: len(tally[digest]), default=None)
    if winner is None or 2 * len(tally[winner]) <= configured:
        return NoMajority(_why_not(votes, held, tally, newest, configured))
    # A version that only lags behind its own bytes needs no other bytes.
    minority = tuple(vote for vote in replicas if vote.digest != winner)
    if not minority:
        return NoMajority(f"every replica that can be read holds {_named(winner, newest.version)} already")
    right = [vote for vote in held if (vote.digest, vote.version) == (winner, newest.version)]
    source = min(right, key=lambda vote: not vote.voter.is_replica).voter
    told = f"{len(tally[winner])} of {configured} failure domains hold {_named(winner, newest.version)}"
    return Majority(
        winner, newest.version, source, minority, f"{told}: {_names(right)}{_others(votes, winner)}"
    )


def _tally(held: Sequence[Held], version: int) -> Mapping[str, set[str]]:
    """The domains that vote for each digest; a domain whose voters of this version disagree abstains."""
    of_domain: dict[str, set[str]] = {}
    for vote in held:
        if vote.version == version:
            of_domain.setdefault(vote.voter.domain, set()).add(vote.digest)
    tally: dict[str, set[str]] = {}
    for domain, digests in of_domain.items():
        if len(digests) == 1:
            tally.setdefault(min(digests), set()).add(domain)
    return tally


def _why_not(
    votes: Sequence[Vote],
    held: Sequence[Held],
    tally: Mapping[str, set[str]],
    newest: Held,
    configured: int,
) -> str:
    for version in sorted({vote.version for vote in held} - {newest.version}, reverse=True):
        older = _tally(held, version)
        if any(2 * len(domains) > configured for domains in older.values()):
            return (
                f"the majority holds version {version}, but {newest.voter.name} holds version"
                f" {newest.version}, which may contain acknowledged writes"
            )
    counts = sorted((len(domains) for domains in tally.values()), reverse=True)
    kind = "a tie" if len(counts) > 1 and counts[0] == counts[1] else "no majority"
    most = counts[0] if counts else 0
    needed = configured // 2 + 1
    return (
        f"{kind}: at most {most} of {configured} failure domains agree on one state of version"
        f" {newest.version}, {needed} are needed{_others(votes, None)}"
    )


def _others(votes: Sequence[Vote], winner: str | None) -> str:
    """What everybody else holds, each after a semicolon; with no winner that is everybody."""
    told = []
    for vote in votes:
        if isinstance(vote, Held):
            if vote.digest != winner:
                told.append(f"{vote.voter.name} holds {_named(vote.digest, vote.version)}")
        else:
            told.append(f"{vote.voter.name}: {vote.why}")
    return "".join(f"; {each}" for each in told)


def _named(digest: str, version: int) -> str:
    return f"{digest[:SHOWN]} (version {version})"


def _names(votes: Sequence[Held]) -> str:
    return ", ".join(vote.voter.name for vote in votes)
