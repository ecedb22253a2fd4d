"""Starting a module of the benchmark as a process of its own, which ends with the benchmark."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from shf_demo.tether import tethered


def module(name: str, *arguments: str) -> list[str]:
    """The command line for `shf_bench.NAME`."""
    return tethered([sys.executable, "-m", f"shf_bench.{name}", *arguments])


def environment() -> dict[str, str]:
    """Ours, in which this package is found, and without settings that would change the fabric."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SHF_")}
    paths = [str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    return kept | {"PYTHONPATH": os.pathsep.join(paths)}
