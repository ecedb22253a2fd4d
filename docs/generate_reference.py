"""Writes the reference pages that are made from the code, so that they cannot drift.

Run it as `python docs/generate_reference.py` after a change of what they describe; tests compare.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

DOCS = Path(__file__).parent
sys.path.insert(0, str(DOCS))  # `generators` is no installed package

from generators import alerts, command_line, http_api, metrics, states  # noqa: E402

FILES: dict[str, Callable[[], str]] = {
    "openapi.json": lambda: json.dumps(http_api.openapi(), indent=2) + "\n",
    "http-api.md": http_api.page,
    "command-line.md": command_line.page,
    "metrics.md": metrics.page,
    "alerts.md": alerts.page,
    "state-machine.md": states.page,
    "state-machine.svg": states.drawing,
}

if __name__ == "__main__":
    for name, make in FILES.items():
        (DOCS / name).write_text(make(), encoding="utf-8")
