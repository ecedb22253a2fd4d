"""The hashes that chain what happened: each covers its line and the hash of the line before.

Triggers keep an honest program from changing a timeline, but not whoever owns the database. With the chain,
a line that was edited, removed, inserted or moved is found, because every hash after it is another one. What
is hashed is what a reader gets back, in one fixed notation, so both databases and a restored copy give the
same. The notation must never change: old lines are verified by it for as long as they are kept.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from self_healing_fabric.store.documents import dumps

NOTHING = "0" * 64  # before the first link


def line_hash(previous: str, line: Mapping[str, Any]) -> str:
    """The hash of a timeline's line (`incident_id`, `at`, `kind`, `message`, `data`) after the one before."""
    told = [previous, _stored(line["incident_id"]), float(line["at"]), line["kind"], _stored(line["message"])]
    return _sha256(told, line["data"])


def link_hash(previous: str, link: Mapping[str, Any]) -> str:
    """The hash of a link of the chain over incidents (`number`, `kind`, `incident_id`, `at`, `data`)."""
    told = [previous, int(link["number"]), link["kind"], _stored(link["incident_id"]), float(link["at"])]
    return _sha256(told, link["data"])


def _sha256(told: list[Any], data: Any) -> str:
    return hashlib.sha256(f"{json.dumps(told)}\n{dumps(data)}".encode()).hexdigest()


def _stored(text: str | None) -> str | None:
    """Text as the store keeps it, see `schema.Text`."""
    return None if text is None else text.replace("\x00", "\ufffd")
