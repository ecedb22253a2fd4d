"""The product with a part cut out, as a server of its own, to tell what that part costs.

    python -m shf_bench.variants parse-only CONFIG     validates a notification, stores nothing, heals nothing
    python -m shf_bench.variants store-only CONFIG     stores it as the product does, and heals nothing

All else is the product's: the application, its checks and counters, and waitress with its settings.
"""

from __future__ import annotations

import sys
from pathlib import Path

from self_healing_fabric.app import serve
from self_healing_fabric.configuration import load_settings
from self_healing_fabric.integration.lifecycle import Fabric
from self_healing_fabric.telemetry import configure_logging


def main(variant: str, configuration: str) -> None:
    configure_logging(json=True)
    fabric = Fabric(load_settings(Path(configuration)))
    fabric.start = lambda: None  # type: ignore[method-assign]
    fabric.orchestrator.alive = lambda: True  # type: ignore[method-assign]
    if variant == "parse-only":
        fabric.store.inbox.put = lambda *_: None  # type: ignore[method-assign]
    serve(fabric)


if __name__ == "__main__":
    main(*sys.argv[1:])
