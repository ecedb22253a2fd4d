"""The Grafana dashboards as files for whoever has only the installed package.

They are shipped as they were made and checked, so nothing is generated here and no tool of Grafana is needed.
Only the folder of the runbooks may differ between installations, as it may for the rules: it is the value of
a hidden variable, since Grafana lets nobody change a provisioned dashboard.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from self_healing_fabric.deployment import deployment_files

RUNBOOKS = "runbooks"  # the variable


def write_dashboards(out: Path, runbook_base_url: str | None = None) -> list[Path]:
    """Write all dashboards into a folder, which is made when missing; return their paths.

    Args:
        out: the folder that Grafana is told to read.
        runbook_base_url: folder of the runbooks' pages; None keeps the project's.

    Raises:
        DeploymentFilesMissing: the installation is not whole.
        OSError: the folder cannot be written.
    """
    out.mkdir(parents=True, exist_ok=True)
    written = []
    for path in sorted((deployment_files("grafana") / "dashboards").glob("*.json")):
        text = path.read_text(encoding="utf-8")
        if runbook_base_url is not None:
            text = _with_runbooks(json.loads(text), runbook_base_url.rstrip("/"))
        target = out / path.name
        target.write_text(text, encoding="utf-8")
        written.append(target)
    return written


def _with_runbooks(content: dict[str, Any], url: str) -> str:
    for variable in content["templating"]["list"]:
        if variable["name"] == RUNBOOKS:
            variable["query"] = url
    return f"{json.dumps(content, indent=2)}\n"
