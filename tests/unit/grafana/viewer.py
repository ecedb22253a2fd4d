"""What each panel, mark and variable of a dashboard shows, asked of Grafana's own code in Node."""

from __future__ import annotations

import atexit
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest

from self_healing_fabric.deployment import deployment_files

NODE = Path(__file__).resolve().parent / "node"
FOLDER = deployment_files("grafana") / "dashboards"
ALL: Mapping[str, Any] = {"cluster": ".*", "service": ".*"}
_INCIDENT = re.compile(r"\b\d{8}-\d{6}-[0-9a-f]{8}\b")
_TIMES = re.compile(r"from=\d+&to=\d+")

Content = dict[str, Any]
Shown = dict[str, list[str]]


@dataclass(frozen=True)
class Span:
    """A time range of a Prometheus, as one looks at it in Grafana."""

    server: str
    begin: float
    end: float


def dashboards() -> dict[str, Content]:
    """The committed dashboards by the names of their files."""
    return {path.name: json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))}


def panels(content: Content) -> Iterator[dict[str, Any]]:
    """All panels, those of collapsed rows included."""
    for panel in content["panels"]:
        yield panel
        yield from panel.get("panels", ())


def parts(content: Content) -> Iterator[tuple[str, str, Any]]:
    """All that asks a server: kind, name and JSON of each."""
    for panel in panels(content):
        yield "panel", panel["title"], panel
    for annotation in content["annotations"]["list"]:
        yield "annotation", f"annotation {annotation['name']}", annotation
    for variable in content["templating"]["list"]:
        if variable["type"] == "query":
            yield "variable", f"variable {variable['name']}", variable


def request(key: str, kind: str, part: Any, span: Span, service: Any = ".*") -> dict[str, Any]:
    """What `show.mjs` wants to know to show one part."""
    variables = {
        **ALL,
        "service": service,
        "datasource": "prometheus",
        "fabric": "https://fabric.example",
        "runbooks": "RUNBOOKS",
    }
    where = {"server": span.server, "from": span.begin, "to": span.end}
    return {"key": key, kind: part, "variables": variables, **where}


@cache
def _bundle() -> Path:
    """`node/show.mjs` with Grafana's library, as one file that old versions of Node can load too."""
    out = Path(mkdtemp(prefix="shf-dashboards-")) / "show.cjs"
    atexit.register(shutil.rmtree, out.parent, ignore_errors=True)
    command = ["node_modules/.bin/esbuild", "show.mjs", "--bundle", "--platform=node", "--log-level=error"]
    subprocess.run([*command, f"--outfile={out}"], cwd=NODE, check=True, timeout=120)
    return out


def show(requests: Sequence[Mapping[str, Any]]) -> Shown:
    """The lines that each request shows, without numbers of incidents, which differ, and without times."""
    command, text = ["node", str(_bundle())], json.dumps(list(requests))
    done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    found: Shown = json.loads(done.stdout)
    return {
        key: [_TIMES.sub("TIMES", _INCIDENT.sub("INCIDENT", line)) for line in lines]
        for key, lines in found.items()
    }


def missing_for(programs: Iterable[str]) -> str | None:
    """What keeps these checks from running, in words."""
    lacking = [name for name in programs if shutil.which(name) is None]
    if lacking:
        return f"no {' and no '.join(lacking)} on PATH"
    if "node" in programs and not (NODE / "node_modules" / ".bin" / "esbuild").exists():
        return "packages are missing: run `npm --prefix tests/unit/grafana/node ci`"
    return None


def require(*programs: str) -> None:
    """Skip, loudly, where something is missing; fail where CI promised it."""
    reason = missing_for(programs)
    if reason is not None:
        text = f"DASHBOARDS NOT CHECKED: {reason}"
        pytest.fail(text) if os.environ.get("CI") == "true" else pytest.skip(text)
