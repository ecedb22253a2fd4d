"""Writes the reference pages that are made from the code, so that they cannot drift.

Run it as `python docs/generate_reference.py` after a change of what they describe; tests compare.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from self_healing_fabric.api.openapi import document
from self_healing_fabric.app import create_app
from self_healing_fabric.integration.lifecycle import Fabric
from self_healing_fabric.settings import Settings

DOCS = Path(__file__).parent


def openapi() -> dict[str, Any]:
    """The OpenAPI document of a fabric with an empty store."""
    with tempfile.TemporaryDirectory() as folder:
        fabric = Fabric(Settings(store=f"sqlite:///{folder}/shf.db"))
        try:
            return document(create_app(fabric))
        finally:
            fabric.stop()


if __name__ == "__main__":
    (DOCS / "openapi.json").write_text(json.dumps(openapi(), indent=2) + "\n", encoding="utf-8")
