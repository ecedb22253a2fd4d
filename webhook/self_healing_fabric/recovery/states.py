"""The states that replicas serve and backups keep: read, hashed and judged; never believed.

A digest that a voter tells is a claim. What counts is the hash of the bytes that were fetched, and that the
claims before and after were the same: a state that is being written is neither right nor wrong yet. All
voters are read beside each other, so that their states are of nearly the same moment.

Backups and the copies that are kept aside are reached through fsspec (local paths, S3, others with their own
drivers), which is needed only where states are repaired.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import importlib.util
import json
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import httpx

from self_healing_fabric import outbound
from self_healing_fabric.errors import ShfError
from self_healing_fabric.recovery.consensus import SHOWN, Held, Silent, Suspect, Vote, Voter
from self_healing_fabric.recovery.effects import TargetAway, TargetUnreadable, unreadable
from self_healing_fabric.recovery.outcomes import Outcome, Permit
from self_healing_fabric.recovery.platforms.http import Calls
from self_healing_fabric.settings import StateBackup, StateReplica, StateSettings

ALGORITHM = "sha256"
LARGEST_CLAIM = 64 * 1024  # bytes of a digest's or a manifest's JSON
PIECE = 64 * 1024  # bytes sent at a time
GRACE = 1.0  # seconds beyond its own timeout until a call is given up
VERSION_HEADER = "State-Version"
EXTRA = "pip install 'self-healing-fabric[state]'"
_DIGEST = re.compile(r"[0-9a-f]{64}")

T = TypeVar("T")
U = TypeVar("U")


class Unreadable(ShfError):
    """A state or its digest cannot be read; says why."""


class Away(Unreadable):
    """Whoever holds the state does not answer just now."""


class Late(Unreadable):
    """It may still be read; nobody waits for it any more."""


@dataclass(frozen=True)
class Claim:
    """What a voter says of its state; `size` in bytes where it tells."""

    digest: str
    version: int
    size: int | None = None

    def is_of(self, other: Claim) -> bool:
        """Whether both speak of the same state."""
        return (self.digest, self.version) == (other.digest, other.version)


@dataclass(frozen=True)
class Content:
    """The bytes of a state, and what was said of them: by a replica in the same answer."""

    data: bytes
    claim: Claim

    @property
    def digest(self) -> str:
        """Of the bytes themselves."""
        return digest_of(self.data)


class Source(Protocol):
    """One voter."""

    voter: Voter

    def claim(self) -> Claim:
        """What it says of its state now. Raises Unreadable."""

    def read(self) -> Content:
        """Its state, whole, with what it says of it. Raises Unreadable."""


class Replica:
    """A replica that serves its state over HTTP (docs/state-repair.md)."""

    def __init__(self, replica: StateReplica, settings: StateSettings) -> None:
        self.voter = Voter(replica.name, replica.domain)
        self.url = replica.url.rstrip("/")
        self._settings = settings
        self._calls = Calls(replica, settings.timeout, settings.bearer_token_file)

    def claim(self) -> Claim:
        """The answer to GET URL/digest."""
        url = f"{self.url}/digest"
        body, _ = self._get(url, LARGEST_CLAIM)
        return _claim_in(url, body)

    def read(self) -> Content:
        """The answer to GET URL, whose headers must tell digest and version too."""
        body, headers = self._get(self.url, self._settings.max_bytes)
        try:
            claim = Claim(_digest(headers["etag"].strip('"')), _version(int(headers[VERSION_HEADER])))
        except (KeyError, ValueError) as error:
            raise Unreadable(f"{self.url} does not tell `ETag` and `{VERSION_HEADER}`") from error
        return Content(body, claim)

    def replace(
        self, data: bytes, *, instead_of: str, version: int, key: str, permit: Permit
    ) -> Outcome | str:
        """PUT a state instead of the one with that digest. Returns how it ended, or why that is open."""
        return self._calls.send(
            "PUT",
            self.url,
            key=key,
            permit=permit,
            content=_pieces(data, self._settings.timeout),
            headers={
                "If-Match": f'"{instead_of}"',
                VERSION_HEADER: str(version),
                "Content-Type": "application/octet-stream",
                "Content-Length": str(len(data)),
            },
        )

    def _get(self, url: str, most: int) -> tuple[bytes, httpx.Headers]:
        ends, body = time.monotonic() + self._settings.timeout, bytearray()
        try:
            with (
                self._calls.client(self._settings.timeout) as client,
                client.stream("GET", url) as answer,
            ):
                if answer.status_code != httpx.codes.OK:
                    away = isinstance(unreadable(answer.status_code, ""), TargetAway)
                    raise (Away if away else Unreadable)(f"{url} answered {answer.status_code}")
                outbound.refuse_packed(answer)
                for part in answer.iter_bytes():
                    body += part
                    if len(body) > most:
                        raise Unreadable(f"{url} answers with more than {most} bytes")
                    if time.monotonic() > ends:
                        raise Away(f"{url} takes longer than {self._settings.timeout:g} s")
                return bytes(body), answer.headers
        except httpx.HTTPError as error:
            kind = Away if isinstance(error, httpx.TransportError) else Unreadable
            raise kind(f"{url} cannot be read: {error or type(error).__name__}") from error
        except TargetUnreadable as error:
            raise Unreadable(str(error)) from error


class Backup:
    """A copy of the state in a file, with a manifest beside it."""

    def __init__(self, backup: StateBackup, settings: StateSettings) -> None:
        self.voter = Voter(backup.name, backup.domain, is_replica=False)
        self._backup = backup
        self._settings = settings

    def claim(self) -> Claim:
        """What its manifest says; the size is part of it."""
        path = self._backup.manifest_path
        claim = _claim_in(path, read_file(path, LARGEST_CLAIM))
        if claim.size is None:
            raise Unreadable(f"{path} does not say how many `bytes` there are")
        return claim

    def read(self) -> Content:
        """The file, with its manifest."""
        return Content(read_file(self._backup.path, self._settings.max_bytes), self.claim())


@dataclass(frozen=True)
class Ballot:
    """The votes of all voters, and the states that were read, by their digest."""

    votes: tuple[Vote, ...]
    states: Mapping[str, bytes]


def replicas_of(settings: StateSettings) -> Mapping[str, Replica]:
    """The replicas by name."""
    return {replica.name: Replica(replica, settings) for replica in settings.replicas}


def sources_of(settings: StateSettings) -> tuple[Source, ...]:
    """All voters."""
    backups = [Backup(backup, settings) for backup in settings.backups]
    return (*replicas_of(settings).values(), *backups)


def ballot_of(settings: StateSettings) -> Ballot:
    """Read what all voters hold, and look a second time after a pause whether they still do."""
    sources = sources_of(settings)
    claims = claims_of(sources, settings)
    # Only those that answered are read on: of one that is away, one timeout is enough.
    there = [source for source, claim in zip(sources, claims, strict=True) if isinstance(claim, Claim)]
    contents = dict(zip(there, _together(lambda source: source.read(), there, settings), strict=True))
    time.sleep(settings.pause)
    again = dict(zip(there, claims_of(there, settings), strict=True))
    votes: list[Vote] = []
    states = {}
    for source, claim in zip(sources, claims, strict=True):
        if isinstance(claim, Unreadable):
            votes.append(Silent(source.voter, str(claim)))
            continue
        content = contents[source]
        votes.append(_vote(source.voter, claim, content, again[source]))
        if isinstance(content, Content):
            states[content.digest] = content.data
    return Ballot(tuple(votes), states)


def digest_of(data: bytes) -> str:
    """As hexadecimal text."""
    return hashlib.sha256(data).hexdigest()


def claims_of(sources: Sequence[Source], settings: StateSettings) -> list[Claim | Unreadable]:
    """What they say of their states, asked beside each other."""
    return _together(lambda source: source.claim(), sources, settings)


def _vote(voter: Voter, claim: Claim, content: Content | Unreadable, again: Claim | Unreadable) -> Vote:
    if isinstance(content, Unreadable):
        return Silent(voter, str(content))
    if isinstance(again, Unreadable):
        return Silent(voter, str(again))
    if not (claim.is_of(content.claim) and claim.is_of(again)):
        return Suspect(voter, "its state changes while it is read")
    size = len(content.data)
    if claim.size is not None and size != claim.size:
        truncated = "is truncated" if size < claim.size else "was changed"
        return Suspect(voter, f"{truncated}: it has {size} bytes, its manifest says {claim.size}")
    if content.digest != claim.digest:
        said = f"its digest is said to be {claim.digest[:SHOWN]}, its bytes have {content.digest[:SHOWN]}"
        return Suspect(
            voter, f"lies: {said}" if voter.is_replica else f"was tampered with or damaged: {said}"
        )
    return Held(voter, content.digest, claim.version)


def in_time(call: Callable[[str], T], paths: Sequence[str], settings: StateSettings) -> list[T]:
    """What a call returns for each path, beside each other and within one timeout. Raises Unreadable."""
    answers = []
    for path, answer in zip(paths, _together(call, paths, settings), strict=True):
        if isinstance(answer, Late):
            raise Unreadable(f"{path}: {answer}, the `timeout` of `recovery.state`")
        if isinstance(answer, Unreadable):
            raise answer
        answers.append(answer)
    return answers


def _together(ask: Callable[[U], T], whom: Sequence[U], settings: StateSettings) -> list[T | Unreadable]:
    """Ask all at once; who does not answer in time is unreadable, whatever it waits for."""
    if not whom:
        return []
    pool = ThreadPoolExecutor(len(whom), thread_name_prefix="shf-state")
    asked = [pool.submit(_try, ask, each) for each in whom]
    pool.shutdown(wait=False)  # the threads end with their calls
    done, _ = wait(asked, timeout=settings.timeout + GRACE)
    late = Late(f"no answer within {settings.timeout:g} s")
    return [each.result() if each in done else late for each in asked]


def _try(ask: Callable[[U], T], whom: U) -> T | Unreadable:
    try:
        return ask(whom)
    except Unreadable as error:
        return error


def _claim_in(where: str, body: bytes) -> Claim:
    try:
        told = json.loads(body)
        if told.get("algorithm", ALGORITHM) != ALGORITHM:
            raise Unreadable(f"{where} has digests of another algorithm than {ALGORITHM}")
        size = told.get("bytes")
        return Claim(
            _digest(told["digest"]), _version(told["version"]), None if size is None else _version(size)
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Unreadable(
            f"{where} does not hold JSON with `digest` ({ALGORITHM}, hex) and `version`"
        ) from error


def _digest(value: Any) -> str:
    if not isinstance(value, str) or not _DIGEST.fullmatch(value):
        raise ValueError(value)
    return value


def _version(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(value)
    return value


def _pieces(data: bytes, within: float) -> Iterator[bytes]:
    """The bytes in pieces, until the time is over: a request that is cut off is none, and must not take for
    ever."""
    ends = time.monotonic() + within
    for start in range(0, len(data), PIECE):
        if time.monotonic() > ends:
            raise httpx.WriteTimeout(f"the state could not be sent within {within:g} s")
        yield data[start : start + PIECE]


def can_reach_files() -> bool:
    """Whether fsspec is installed."""
    return importlib.util.find_spec("fsspec") is not None


def read_file(path: str, most: int) -> bytes:
    """The bytes of a file of at most so many. Raises Unreadable."""
    try:
        filesystem, inside = _filesystem(path)
        with filesystem.open(inside, "rb") as file:
            data: bytes = file.read(most + 1)
    except FileNotFoundError as error:
        raise Unreadable(f"{path} does not exist") from error
    except Exception as error:  # each driver has errors of its own
        raise Unreadable(f"{path} cannot be read: {error or type(error).__name__}") from error
    if len(data) > most:
        raise Unreadable(f"{path} has more than {most} bytes")
    return data


def keep(path: str, data: bytes) -> None:
    """Write a file, unless it is there already, and read it back; on our own disk it outlives a power cut.

    Raises Unreadable.
    """
    if not _holds(path, data):
        _write(path, data)
        if not _holds(path, data):
            raise Unreadable(f"{path} was written and does not hold what was written")
    filesystem, inside = _filesystem(path)
    if _is_our_disk(filesystem):
        try:
            for each in (inside, Path(inside).parent):
                _sync(each)
        except OSError as error:
            raise Unreadable(f"{path} cannot be brought to the disk: {error.strerror}") from error


def _write(path: str, data: bytes) -> None:
    try:
        filesystem, inside = _filesystem(path)
        _make_folder(filesystem, inside.rpartition("/")[0])
        filesystem.pipe_file(inside, data)
    except Exception as error:
        _remove_half(path, data)
        raise Unreadable(f"{path} cannot be written: {error or type(error).__name__}") from error


def _make_folder(filesystem: Any, folder: str) -> None:
    if _is_our_disk(filesystem):
        # Nobody else may read what only the service's own users could.
        Path(folder).mkdir(mode=0o700, parents=True, exist_ok=True)
    else:
        filesystem.makedirs(folder, exist_ok=True)


def _is_our_disk(filesystem: Any) -> bool:
    from fsspec.implementations.local import LocalFileSystem  # only when needed, as in `_filesystem`

    return isinstance(filesystem, LocalFileSystem)


def _sync(path: str | Path) -> None:
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems know none of folders
            raise
    finally:
        os.close(opened)


def _remove_half(path: str, data: bytes) -> None:
    """It is worth nothing, and may fill the very disk that the fabric's own store is on."""
    if _holds(path, data):
        return  # this try was given up long ago, and a later one has written the whole
    with contextlib.suppress(Exception):
        filesystem, inside = _filesystem(path)
        filesystem.rm_file(inside)


def _holds(path: str, data: bytes) -> bool:
    try:
        return read_file(path, len(data)) == data
    except Unreadable:
        return False


def _filesystem(path: str) -> tuple[Any, str]:
    # Imported only when needed: most fabrics repair no states.
    from fsspec.core import url_to_fs

    filesystem, inside = url_to_fs(path)
    filesystem.invalidate_cache()  # a listing from before may be older than the file
    return filesystem, inside
