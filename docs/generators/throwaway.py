"""A fabric with an empty store, for what can only be read off a built one: its routes and its metrics."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from flask import Flask

from self_healing_fabric.app import create_app
from self_healing_fabric.integration.lifecycle import Fabric
from self_healing_fabric.settings import Settings


@contextmanager
def fabric() -> Iterator[tuple[Fabric, Flask]]:
    """The fabric and its application; never started, so it asks nobody."""
    with tempfile.TemporaryDirectory() as folder:
        made = Fabric(
            Settings(
                store=f"sqlite:///{folder}/shf.db",
                services={"cart": {"pushes_heartbeats": True}},  # type: ignore[dict-item]
                alertmanager={"url": "http://127.0.0.1:9093"},  # type: ignore[arg-type]
            )
        )
        try:
            yield made, create_app(made)
        finally:
            made.store.close()
