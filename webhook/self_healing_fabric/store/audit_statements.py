"""Keeping the chains: over the lines of each timeline, and over the incidents themselves.

A chain per incident needs no lock that all writers share: its head (how many lines, and the last hash) is a
row of its own, locked while a line is appended. It also tells when the end of a timeline was cut off. The
chain over incidents says which ones were opened and which were retired with how many lines, so that a whole
incident cannot vanish; incidents are opened one transaction at a time anyway. From time to time the heads of
all timelines that went on are sealed into that chain: whoever keeps its newest hash elsewhere can later prove
that nothing before it was rewritten, not even by somebody who computes all hashes anew.

Where a timeline ends, this process mostly knows from its last line. So the head is first moved on from there,
and read only when that is not where it stands: what is remembered needs no care, for a wrong memory moves
nothing.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

from sqlalchemy import Connection, Engine, bindparam, delete, func, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite

from self_healing_fabric.store.chain import NOTHING, line_hash, link_hash
from self_healing_fabric.store.rows import execute_for
from self_healing_fabric.store.schema import audit_chain, audit_heads

CHAIN = ""  # the subject of the head of the chain over incidents; no incident is called so
SEAL_EVERY = 3600.0  # seconds
MOST_KNOWN = 2_000  # heads that are remembered; of the incidents that are worked on
_PART = 500  # subjects in one statement

Head = tuple[int, str]  # how many lines, and the hash of the last one

_HEADS_LOCKED = (
    select(audit_heads)
    .where(audit_heads.c.subject.in_(bindparam("_subjects", expanding=True)))
    .order_by(audit_heads.c.subject)
    .with_for_update()
)
_HEAD_LOCKED = select(audit_heads).where(audit_heads.c.subject == bindparam("_subject")).with_for_update()


def _put_head(statement: Any) -> Any:
    changed = {name: statement.excluded[name] for name in ("entries", "hash", "at")}
    return statement.on_conflict_do_update(index_elements=["subject"], set_=changed)


_PUT_HEADS: Mapping[str, Any] = {
    "postgresql": _put_head(postgresql.insert(audit_heads)),
    "sqlite": _put_head(sqlite.insert(audit_heads)),
}
_BEGIN_HEADS: Mapping[str, Any] = {
    "postgresql": postgresql.insert(audit_heads).on_conflict_do_nothing(index_elements=["subject"]),
    "sqlite": sqlite.insert(audit_heads).on_conflict_do_nothing(index_elements=["subject"]),
}
_MOVE_ON = (
    update(audit_heads)
    .where(
        audit_heads.c.subject == bindparam("_subject"),
        audit_heads.c.entries == bindparam("_entries"),
        audit_heads.c.hash == bindparam("_hash"),
    )
    .values(entries=bindparam("entries"), hash=bindparam("hash"), at=bindparam("at"))
)
_LOCKED = select(func.pg_advisory_xact_lock_shared(bindparam("_lock"))).scalar_subquery()
_LOCK_AND_MOVE_ON = _MOVE_ON.where(_LOCKED.is_not(None))  # asked once, before any row is looked at
_LINK = insert(audit_chain)
_NEWEST_LINK = select(audit_chain).order_by(audit_chain.c.number.desc()).limit(1)
_LAST_SEAL = (
    select(audit_chain)
    .where(audit_chain.c.kind.in_(("begun", "sealed")))
    .order_by(audit_chain.c.number.desc())
    .limit(1)
)
_SEALED_BY = select(func.max(audit_chain.c.at)).where(
    audit_chain.c.kind.in_(("begun", "sealed")), audit_chain.c.at <= bindparam("_now")
)


class _Known:
    """The heads that a process wrote last, also what was rolled back. Safe to share between threads."""

    def __init__(self) -> None:
        self._heads: OrderedDict[str, Head] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, subject: str) -> Head | None:
        return self._heads.get(subject)

    def put(self, heads: Mapping[str, Head]) -> None:
        with self._lock:
            for subject, head in heads.items():
                self._heads[subject] = head
                self._heads.move_to_end(subject)
            while len(self._heads) > MOST_KNOWN:
                self._heads.popitem(last=False)


_KNOWN: WeakKeyDictionary[Engine, _Known] = WeakKeyDictionary()  # of each open store


def _known(connection: Connection) -> _Known:
    known = _KNOWN.get(connection.engine)
    return _KNOWN.setdefault(connection.engine, _Known()) if known is None else known


def chained_from_known(
    connection: Connection, rows: Sequence[Mapping[str, Any]], lock: int
) -> list[dict[str, Any]] | None:
    """As `chained`, without reading the head first; None, and nothing is done, when that does not suffice.

    On PostgreSQL the lock with this number is taken with it, shared, until the transaction ends.
    """
    subject = rows[0]["incident_id"]
    known = _known(connection)
    head = known.get(subject)
    if head is None or any(row["incident_id"] != subject for row in rows):
        return None
    lines = _lines(rows, {subject: head})
    if not _moved_on(connection, subject, head, lines, lock):
        return None
    known.put({subject: (head[0] + len(lines), lines[-1]["hash"])})
    return lines


def _moved_on(
    connection: Connection,
    subject: str,
    head: Head,
    added: Sequence[Mapping[str, Any]],
    lock: int | None = None,
) -> bool:
    """Move the head on by what is added, where it stands as remembered; whether it did.

    On PostgreSQL the lock with this number is taken with it, shared, until the transaction ends.
    """
    entries, last = head
    values = {
        "_subject": subject,
        "_entries": entries,
        "_hash": last,
        "entries": entries + len(added),
        "hash": added[-1]["hash"],
        "at": max(each["at"] for each in added),
    }
    if lock is not None and connection.dialect.name == "postgresql":
        return connection.execute(_LOCK_AND_MOVE_ON, {**values, "_lock": lock}).rowcount == 1
    return connection.execute(_MOVE_ON, values).rowcount == 1


def chained(connection: Connection, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The lines with their hashes, for the caller to insert; the heads of their timelines are moved on."""
    subjects = {row["incident_id"] for row in rows}
    heads = _heads(connection, subjects)
    if missing := subjects - set(heads):  # opened by a version before the chain
        _put(connection, [(each, 0, NOTHING, 0.0) for each in sorted(missing)], _BEGIN_HEADS)
        heads |= _heads(connection, missing)
    lines = _lines(rows, heads)
    last: dict[str, float] = {}
    for row in rows:
        last[row["incident_id"]] = max(row["at"], last.get(row["incident_id"], row["at"]))
    _put(connection, [(subject, *heads[subject], at) for subject, at in last.items()])
    _known(connection).put(heads)
    return lines


def _lines(rows: Sequence[Mapping[str, Any]], heads: dict[str, Head]) -> list[dict[str, Any]]:
    """The lines with their hashes; `heads` is moved on."""
    lines = []
    for row in rows:
        entries, previous = heads[row["incident_id"]]
        line = {**row, "hash": line_hash(previous, row)}
        heads[row["incident_id"]] = (entries + 1, line["hash"])
        lines.append(line)
    return lines


def _heads(connection: Connection, subjects: Collection[str]) -> dict[str, Head]:
    """How many lines and the last hash, by subject; nobody else moves these on before we end."""
    if len(subjects) == 1:  # a step: a list of any length would be written into the statement each time
        rows = connection.execute(_HEAD_LOCKED, {"_subject": next(iter(subjects))})
        return {row.subject: (row.entries, row.hash) for row in rows}
    found: dict[str, tuple[int, str]] = {}
    ordered = sorted(subjects)
    for start in range(0, len(ordered), _PART):
        rows = connection.execute(_HEADS_LOCKED, {"_subjects": ordered[start : start + _PART]})
        found |= {row.subject: (row.entries, row.hash) for row in rows}
    return found


def _put(
    connection: Connection,
    heads: Sequence[tuple[str, int, str, float]],
    statements: Mapping[str, Any] = _PUT_HEADS,
) -> None:
    rows = [dict(zip(("subject", "entries", "hash", "at"), head, strict=True)) for head in heads]
    execute_for(connection, statements[connection.dialect.name], rows)


def record(connection: Connection, links: Sequence[Mapping[str, Any]]) -> tuple[int, str]:
    """Append at least one link (`kind`, `incident_id`, `at`, `data`) to the chain over incidents; its head.

    Where somebody has removed the head, the chain goes on behind its newest link and says so: a store that
    was tampered with must not keep anything from being healed.
    """
    rows = _linked_to_known(connection, links)
    if rows is None:
        found = _heads(connection, [CHAIN]).get(CHAIN)
        lost = [] if found else [{"kind": "resumed", "incident_id": None, "at": links[0]["at"], "data": {}}]
        rows = _linked([*lost, *links], found or newest_link(connection))
        _put(connection, [(CHAIN, rows[-1]["number"], rows[-1]["hash"], rows[-1]["at"])])
    execute_for(connection, _LINK, rows)
    head = rows[-1]["number"], rows[-1]["hash"]
    _known(connection).put({CHAIN: head})
    return head


def _linked_to_known(
    connection: Connection, links: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]] | None:
    """The links behind the head that is remembered, which is moved on; None when it is not the stored one."""
    head = _known(connection).get(CHAIN)
    if head is None:
        return None
    rows = _linked(links, head)
    return rows if _moved_on(connection, CHAIN, head, rows) else None


def _linked(links: Sequence[Mapping[str, Any]], head: Head) -> list[dict[str, Any]]:
    """The links with their numbers and hashes, behind the head."""
    number, previous = head
    rows = []
    for link in links:
        number += 1
        row = {**link, "number": number}
        previous = row["hash"] = link_hash(previous, row)
        rows.append(row)
    return rows


def newest_link(connection: Connection) -> tuple[int, str]:
    """Number and hash of the last link of the chain over incidents; of none, what the first one follows."""
    row = connection.execute(_NEWEST_LINK).first()
    return (row.number, row.hash) if row else (0, NOTHING)


def record_openings(connection: Connection, incidents: Sequence[Mapping[str, Any]]) -> None:
    """Incidents were opened."""
    links = [
        {
            "kind": "opened",
            "incident_id": row["id"],
            "at": row["opened_at"],
            "data": {"service": row.get("service")},
        }
        for row in incidents
    ]
    record(connection, links)
    heads = [(row["id"], 0, NOTHING, row["opened_at"]) for row in incidents]
    _put(connection, heads, _BEGIN_HEADS)
    _known(connection).put({row["id"]: (0, NOTHING) for row in incidents})


def record_retirements(connection: Connection, incident_ids: Sequence[str], now: float) -> None:
    """Incidents are deleted because their retention is over; what their timelines were stays as a hash."""
    heads = _heads(connection, incident_ids)
    links = []
    for each in incident_ids:
        entries, last = heads.get(each, (0, NOTHING))
        data = {"entries": entries, "hash": last}
        links.append({"kind": "retired", "incident_id": each, "at": now, "data": data})
    record(connection, links)
    connection.execute(delete(audit_heads).where(audit_heads.c.subject.in_(incident_ids)))


def seal(connection: Connection, now: float) -> tuple[int, str] | None:
    """Seal the heads of the timelines that went on since the last seal, when it is time; the chain's head.

    Those of an hour before are sealed once more: a line may be written later than its time says. A seal that
    lies ahead is of a clock that was put right meanwhile, and says nothing of what came since.
    """
    last = connection.execute(_LAST_SEAL).first()
    sealed_at = 0.0 if last is None else last.at  # somebody has removed the first link, as `verify` finds
    if sealed_at <= now < sealed_at + SEAL_EVERY:
        return None
    if sealed_at > now:
        sealed_at = connection.execute(_SEALED_BY, {"_now": now}).scalar_one() or 0.0
    since = sealed_at - SEAL_EVERY
    went_on = select(audit_heads).where(audit_heads.c.subject != CHAIN, audit_heads.c.at >= since)
    heads = connection.execute(went_on.order_by(audit_heads.c.subject)).all()
    if not heads:
        return None
    sealed = [[head.subject, head.entries, head.hash] for head in heads]
    return record(connection, [{"kind": "sealed", "incident_id": None, "at": now, "data": {"heads": sealed}}])
