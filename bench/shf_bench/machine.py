"""What was measured on: figures without their machine are worth nothing."""

from __future__ import annotations

import os
import platform
import shutil
import sqlite3
import statistics
import subprocess
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from self_healing_fabric import __version__

SYNCS = 50
SERVERS = ("prometheus", "prometheus-alertmanager", "alertmanager")
PACKAGES = ("flask", "waitress", "pydantic", "sqlalchemy", "psycopg", "httpx", "requests")


def describe(folder: Path, postgresql: Path | None) -> dict[str, Any]:
    """The machine, the disk that the stores are on, and the versions."""
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30,
        "load_before": os.getloadavg()[0],
        "kernel": f"{platform.system()} {platform.release()}",
        "file_system": _file_system(folder),
        "fsync_ms": _fsync_ms(folder),
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "postgresql": None if postgresql is None else _postgresql(postgresql),
        "fabric": __version__,
        "servers": [_server(program) for program in SERVERS if shutil.which(program)],
        "packages": {name: version(name) for name in PACKAGES},
    }


def sentence(machine: dict[str, Any]) -> str:
    """The same for people."""
    packages = ", ".join(f"{name} {number}" for name, number in machine["packages"].items())
    return (
        f"{machine['cores']} cores ({machine['processor']}), {machine['memory_gib']:.0f} GiB, "
        f"{machine['kernel']}, load {machine['load_before']:.1f} before the start; "
        f"stores on {machine['file_system']}, an fsync of 4 KiB takes {machine['fsync_ms']:.2f} ms; "
        f"fabric {machine['fabric']}; Python {machine['python']}, SQLite {machine['sqlite']}, "
        f"{', '.join([machine['postgresql'] or 'no PostgreSQL', *machine['servers']])}; {packages}"
    )


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _file_system(folder: Path) -> str:
    """The type of the innermost mount that holds the folder: on a tmpfs, syncing costs nothing."""
    mounts = [line.split()[1:3] for line in Path("/proc/self/mounts").read_text().splitlines()]
    around = [(point, kind) for point, kind in mounts if folder.resolve().is_relative_to(point)]
    return max(around, key=lambda mount: len(mount[0]))[1]


def _fsync_ms(folder: Path) -> float:
    seconds = []
    path = folder / "fsync"
    with path.open("wb", buffering=0) as file:
        for _ in range(SYNCS):
            file.write(bytes(4096))
            began = time.perf_counter()
            os.fsync(file.fileno())
            seconds.append(time.perf_counter() - began)
    path.unlink()
    return 1000 * statistics.median(seconds)


def _server(program: str) -> str:
    """Such as `Prometheus 2.42.0+ds`; Debian's names and the releases' own print the same."""
    text = subprocess.run([program, "--version"], capture_output=True, text=True, check=True)  # noqa: S603
    name, _, rest = (text.stdout or text.stderr).partition(", version ")
    return f"{name.capitalize()} {rest.split()[0]}"


def _postgresql(folder: Path) -> str:
    command = [str(folder / "postgres"), "--version"]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout  # noqa: S603
    return text.strip().replace("postgres (PostgreSQL)", "PostgreSQL")
