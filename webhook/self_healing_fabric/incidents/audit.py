"""Is what the store tells what happened? Every hash is computed anew and compared.

Found is whatever does not fit: a line that was edited, removed, inserted or moved, a timeline whose end is
missing, an incident that was never opened or vanished without having been retired. Who owns the database and
computes every hash anew leaves nothing to be found in it; against that helps only a hash that was kept
elsewhere (`expect`), such as the one that the log tells at every seal.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, Row, select

from self_healing_fabric.store.audit_statements import CHAIN, newest_link
from self_healing_fabric.store.chain import NOTHING, line_hash, link_hash
from self_healing_fabric.store.schema import audit_chain, audit_heads, incidents, timeline

AT_ONCE = 1000  # rows read in one go: a store of millions of lines needs no more memory


@dataclass(frozen=True)
class Head:
    """Where the chain over incidents ends."""

    number: int
    hash: str


@dataclass(frozen=True)
class Audit:
    """What a verification looked at, and everything that does not fit, one sentence each."""

    head: Head
    incidents: int
    lines: int
    findings: tuple[str, ...]


@dataclass
class _Known:
    """What the chain over incidents says."""

    opened: set[str] = field(default_factory=set)
    retired: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    sealed: dict[str, dict[int, str]] = field(default_factory=dict)  # by incident: number of lines and hash
    lines_until: int = 0  # the last line from before there was a chain


def head(connection: Connection) -> Head:
    """Where the chain over incidents ends now; by its newest link, where somebody has removed its head."""
    return _head(connection) or Head(*newest_link(connection))


def _head(connection: Connection) -> Head | None:
    row = connection.execute(select(audit_heads).where(audit_heads.c.subject == CHAIN)).first()
    return Head(row.entries, row.hash) if row else None


def verify(connection: Connection, expect: str | None = None) -> Audit:
    """Compute all hashes of the store anew, on one snapshot.

    Args:
        connection: inside a transaction that sees one snapshot.
        expect: the hash of any link of the chain, kept elsewhere; whatever it covers cannot have been
            rewritten when it is found again.
    """
    findings: list[str] = []
    known = _Known()
    end, seen = _head(connection), set()
    if end is None:
        findings.append("audit chain: its head is missing")
    last = Head(0, NOTHING)
    for link in _rows(connection, select(audit_chain).order_by(audit_chain.c.number)):
        if link.number != last.number + 1:
            findings.append(f"audit chain: link {last.number + 1} is missing before link {link.number}")
        if link_hash(last.hash, dict(link._mapping)) != link.hash:
            findings.append(f"audit chain: link {link.number} ({link.kind}) or the one before it was changed")
        findings += _learn(known, link)
        seen.add(link.hash)
        last = Head(link.number, link.hash)
    if end is not None and last != end:
        findings.append(f"audit chain: it ends with link {last.number}, but its head names {end.number}")
    if expect is not None and expect.lower() not in seen:
        findings.append(f"audit chain: no link has the expected hash {expect}: what it covers was rewritten")
    stored = set(connection.execute(select(incidents.c.id)).scalars())
    findings += _incidents(known, stored)
    heads = {row.subject: row for row in connection.execute(select(audit_heads)) if row.subject != CHAIN}
    timelines = _Timelines(known, heads)
    lines = select(timeline).order_by(timeline.c.incident_id, timeline.c.id)
    findings += timelines.walk(_rows(connection, lines))
    return Audit(end or last, len(stored), timelines.lines, tuple(findings))


def _rows(connection: Connection, query: Any) -> Iterator[Row[Any]]:
    yield from connection.execute(query.execution_options(yield_per=AT_ONCE))


def _learn(known: _Known, link: Row[Any]) -> Iterator[str]:
    """Take in what a link says."""
    if link.kind == "begun":
        known.lines_until = link.data["lines_until"]
    elif link.kind == "resumed":
        yield f"audit chain: before link {link.number} its head was missing, so links may have been cut off"
    elif link.kind == "opened":
        if link.incident_id in known.opened:
            yield f"incident {link.incident_id}: was opened twice (link {link.number})"
        known.opened.add(link.incident_id)
    elif link.kind == "retired":
        known.retired[link.incident_id] = link.data
    elif link.kind == "sealed":
        for incident_id, entries, sealed in link.data["heads"]:
            known.sealed.setdefault(incident_id, {})[entries] = sealed


def _incidents(known: _Known, stored: set[str]) -> Iterator[str]:
    for each in sorted(stored - known.opened):
        yield f"incident {each}: nothing says that it was opened"
    for each in sorted(known.opened - stored - set(known.retired)):
        yield f"incident {each}: is missing and was not retired"
    for each in sorted(stored & set(known.retired)):
        yield f"incident {each}: is there although it was retired"
    for each, data in known.retired.items():
        for entries, sealed in known.sealed.get(each, {}).items():
            if entries > data["entries"] or (entries == data["entries"] and sealed != data["hash"]):
                yield f"incident {each}: was retired with another timeline than was sealed"


class _Timelines:
    """Walks the lines of all timelines in order, and tells what does not fit."""

    def __init__(self, known: _Known, heads: Mapping[str, Row[Any]]) -> None:
        self.lines = 0
        self._known = known
        self._heads = heads
        self._current: str | None = None
        self._entries, self._previous = 0, NOTHING
        self._ended: set[str] = set()

    def walk(self, rows: Iterator[Row[Any]]) -> Iterator[str]:
        for row in rows:
            if row.incident_id != self._current:
                yield from self._end()
                self._current, self._entries, self._previous = row.incident_id, 0, NOTHING
            self.lines += 1
            yield from self._line(row)
        yield from self._end()
        for each in sorted(set(self._heads) - self._ended):
            if self._heads[each].entries:
                yield f"incident {each}: all {self._heads[each].entries} lines of its timeline are missing"

    def _line(self, row: Row[Any]) -> Iterator[str]:
        where = f"incident {row.incident_id}: line {row.id}"
        if row.hash is None and row.id > self._known.lines_until:
            yield f"{where} has no hash: it was written past the fabric, or by an older version beside it"
            return
        expected = line_hash(self._previous, dict(row._mapping))
        if row.hash not in (None, expected):
            yield f"{where} or the one before it was changed, removed or inserted"
        self._entries, self._previous = self._entries + 1, row.hash or expected
        if self._known.sealed.get(row.incident_id, {}).get(self._entries) not in (None, self._previous):
            yield f"{where} is not the one that was sealed"

    def _end(self) -> Iterator[str]:
        if self._current is None:
            return
        self._ended.add(self._current)
        where, kept = f"incident {self._current}", self._heads.get(self._current)
        if kept is None:
            yield f"{where}: nothing says where its timeline ends"
        elif kept.entries != self._entries:
            yield f"{where}: its timeline has {self._entries} lines and had {kept.entries}"
        elif kept.hash != self._previous:
            yield f"{where}: its timeline ends with another line than the one that was written"
