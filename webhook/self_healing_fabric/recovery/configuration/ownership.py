"""Who else writes to an object on Kubernetes: a GitOps controller, other field managers, nobody.

A controller that applies a repository puts back within minutes what anybody else has changed. Two healers of
one object make a loop, so such an object is left to its controller and the change is proposed to people.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from self_healing_fabric.cluster.gitops import manager_of
from self_healing_fabric.recovery.configuration.live import FIELD_MANAGER
from self_healing_fabric.recovery.effects import NotApplicable

MOST_FIELDS = 20  # of one foreign manager that are told


def refuse_managed(live: Mapping[str, Any]) -> None:
    """Raises NotApplicable, with what to propose, for an object that a GitOps controller applies."""
    manager = manager_of(live)
    if manager is None:
        return
    what = f"{live.get('kind', 'the object')} {live['metadata'].get('name')}"
    raise NotApplicable(
        f"{manager} manages {what} and would put its own back. "
        f"Proposed: let {manager.tool} sync it, or commit the wanted configuration to its repository"
    )


def foreign_fields(live: Mapping[str, Any], ours: set[str]) -> tuple[str, ...]:
    """One line for each other manager with the fields that only others own: they are left alone."""
    told = []
    for manager, fields in _managers(live):
        foreign = sorted(fields - ours)
        if foreign:
            more = f" and {len(foreign) - MOST_FIELDS} more" if len(foreign) > MOST_FIELDS else ""
            told.append(f"{manager} manages {', '.join(foreign[:MOST_FIELDS])}{more}: left alone")
    return tuple(told)


def own_fields(applied: Mapping[str, Any]) -> set[str]:
    """The fields that we own in what a server-side apply of ours would make."""
    return {
        field
        for entry in applied["metadata"].get("managedFields") or ()
        if entry.get("manager") == FIELD_MANAGER and entry.get("operation") == "Apply"
        for field in _paths(entry.get("fieldsV1") or {}, "")
    }


def _managers(live: Mapping[str, Any]) -> Iterator[tuple[str, set[str]]]:
    for entry in (live.get("metadata") or {}).get("managedFields") or ():
        manager = str(entry.get("manager"))
        # What a controller writes into the status is no configuration.
        fields = {path for path in _paths(entry.get("fieldsV1") or {}, "") if not path.startswith("status")}
        if manager != FIELD_MANAGER and entry.get("subresource") != "status":
            yield manager, fields


def _paths(fields: Mapping[str, Any], path: str) -> Iterator[str]:
    """The leaves of a set of fields as the API writes it: `f:` a field, `k:` an item by key, `v:` a value."""
    for key, below in fields.items():
        if key == ".":
            continue
        kind, _, name = key.partition(":")
        here = f"{path}.{name}" if kind == "f" and path else name if kind == "f" else f"{path}[{name}]"
        if below and set(below) != {"."}:
            yield from _paths(below, here)
        else:
            yield here
