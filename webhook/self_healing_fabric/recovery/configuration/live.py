"""The configuration that is in force: read it with its version, and replace exactly that version.

Between reading and writing somebody else may write. So every place has a version (an ETag, a
resourceVersion), every write names the one that was read, and a place without one is refused: there nobody
could tell whether a colleague's change was just overwritten.

What a change needs is written down before it, in `Change`: what was there, what is wanted, and the version.
After a crash that is all there is, and the wanted file may say something else by then.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

from self_healing_fabric.recovery.configuration.drift import Drift, Unparsable, compare, says_nothing
from self_healing_fabric.recovery.configuration.masking import Masker
from self_healing_fabric.recovery.outcomes import Outcome, Permit

FIELD_MANAGER = "self-healing-fabric"

Change = Mapping[str, Any]
"""One change as JSON: all that is needed to make it, to find it again at the target, and to take it back.

It holds the configuration, secrets included. It is kept in an action's `before`, which nothing shows.
"""


@dataclass(frozen=True)
class Running:
    """What runs now.

    Attributes:
        content: the bytes; None when the place is there and holds nothing yet.
        version: as JSON, what a write must name so that it replaces exactly this.
        refused: why it must not be written, or None.
    """

    content: bytes | None
    version: Mapping[str, Any]
    refused: str | None = None


class Side(StrEnum):
    """Which configuration of a change is in force."""

    PREVIOUS = "previous"
    WANTED = "wanted"
    NEITHER = "neither"


class Live(Protocol):
    """One place where a configuration is in force.

    Attributes:
        platform: what is spoken to, for example `http`.
        target: what guardrails count by, the same for every service that shares the place.
        longest_write: seconds that one write may take, from when its permit was asked.
    """

    platform: str
    target: str
    longest_write: float

    def read(self) -> Running:
        """What runs now. Raises TargetUnreadable."""
        ...

    def drift(self, running: Running, wanted: bytes) -> Drift:
        """In what it differs from the wanted one. Raises TargetUnreadable, drift.Unparsable."""
        ...

    def change(self, running: Running, wanted: bytes) -> Change:
        """The change from what runs to what is wanted.

        Raises NotApplicable where it must not be written, because it is immutable or somebody else's;
        TargetUnreadable, drift.Unparsable.
        """
        ...

    def reverse(self, change: Change, running: Running) -> Change:
        """The change back to exactly what there was, from what runs now."""
        ...

    def side(self, change: Change, running: Running) -> Side:
        """Which side of the change runs."""
        ...

    def write(self, change: Change, *, key: str, permit: Permit) -> Outcome | str:
        """Make the change, if its previous side still runs. Returns how it ended, or, where that is open, why
        it is."""
        ...


class Document:
    """What the places have in common that hold one document, bytes in and bytes out."""

    def __init__(self, form: str, masker: Masker) -> None:
        self._form, self._masker = form, masker

    def drift(self, running: Running, wanted: bytes) -> Drift:
        """Compared in the configured format."""
        # A file that was cut off, or is just being written, would be rolled out as what is wanted.
        if says_nothing(wanted, self._form):
            raise Unparsable("it is empty")
        return compare(running.content, wanted, self._form, self._masker)

    def change(self, running: Running, wanted: bytes) -> Change:
        """Both sides, byte for byte."""
        return {
            "previous": _stored(running.content),
            "wanted": _stored(wanted),
            "version": dict(running.version),
        }

    def reverse(self, change: Change, running: Running) -> Change:
        """The sides exchanged."""
        return {
            "previous": _stored(running.content),
            "wanted": change["previous"],
            "version": dict(running.version),
        }

    def side(self, change: Change, running: Running) -> Side:
        """The same bytes, or the same meaning: a target may write a document in its own words."""
        if running.content == stored_bytes(change["previous"]):
            return Side.PREVIOUS
        if self._is_same(running.content, stored_bytes(change["wanted"])):
            return Side.WANTED
        same = self._is_same(running.content, stored_bytes(change["previous"]))
        return Side.PREVIOUS if same else Side.NEITHER

    def _is_same(self, running: bytes | None, content: bytes | None) -> bool:
        if running == content:
            return True
        if running is None or content is None:
            return False
        try:
            return not compare(running, content, self._form, self._masker)
        except Unparsable:
            return False


def _stored(content: bytes | None) -> str | None:
    return None if content is None else base64.b64encode(content).decode()


def stored_bytes(text: str | None) -> bytes | None:
    """The bytes of one side of a change."""
    return None if text is None else base64.b64decode(text)
