"""Packages with entry points, as `pip` leaves them: a module, and the metadata that names what it brings."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from textwrap import dedent


def write_package(
    folder: Path,
    source: str,
    entry_points: Mapping[str, Mapping[str, str]],
    *,
    name: str = "acme",
    version: str = "2.1",
) -> None:
    """Write the package `name` into a folder of `sys.path`; its one module is called `shf_<name>`.

    `entry_points` are, by group (without its prefix) and name, the objects in the module.
    """
    folder.mkdir(exist_ok=True)
    (folder / f"shf_{name}.py").write_text(dedent(source))
    metadata = folder / f"{name}-{version}.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    lines = []
    for group, points in entry_points.items():
        lines.append(f"[self_healing_fabric.{group}]")
        lines += [f"{point} = shf_{name}:{attribute}" for point, attribute in points.items()]
    (metadata / "entry_points.txt").write_text("\n".join(lines) + "\n")
