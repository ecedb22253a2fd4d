"""Where the files are that are deployed beside the service: alert rules and dashboards.

They belong to Prometheus, Alertmanager and Grafana, so they live at the top of the repository where
people look for them, and a wheel carries a copy inside the package. Code that guesses such paths works in
the checkout where it was written and nowhere else; whatever needs these files asks here.

The trap avoided: seen from an installed package, the folder above belongs to all packages, and any of
them may have put a `grafana` there. A checkout is believed only when it is one.
"""

from pathlib import Path

from self_healing_fabric.errors import DeploymentFilesMissing

PACKAGE = Path(__file__).resolve().parent


def deployment_files(kind: str) -> Path:
    """The folder of ``kind`` ("alert_rules" or "grafana"), in a wheel or in a checkout."""
    folder = _root_of_deployment_files() / kind
    if not folder.is_dir():
        raise DeploymentFilesMissing(
            f"no folder {kind!r} in {folder.parent}: install self-healing-fabric again"
        )
    return folder


def _root_of_deployment_files() -> Path:
    source_root = PACKAGE.parent
    in_checkout = source_root.name == "webhook" and (source_root.parent / "pyproject.toml").is_file()
    return source_root.parent if in_checkout else PACKAGE / "_deployment"
