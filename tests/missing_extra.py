"""An optional dependency that is not installed, for as long as a test lasts."""

from __future__ import annotations

import sys

import pytest

_IMPORTING = {
    "docker": ("containers", "recovery.platforms.docker", "diagnosis.sources.docker"),
    "kubernetes": ("cluster.", "recovery.platforms.kubernetes", "diagnosis.sources.kubernetes"),
}


def take_away(extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the import of an extra's package fail, also where it was imported before.

    Args:
        extra: `docker` or `kubernetes`; its package has the same name.
        monkeypatch: restores what was there.
    """
    importing = tuple(f"self_healing_fabric.{each}" for each in _IMPORTING[extra])
    for name in [*sys.modules]:
        if name.startswith(importing):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, extra, None)
