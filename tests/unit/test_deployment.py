"""Rules and dashboards are found in a checkout and in a wheel, and nowhere by accident."""

from pathlib import Path

import pytest

from self_healing_fabric import deployment
from self_healing_fabric.errors import DeploymentFilesMissing, ShfError


@pytest.mark.parametrize(("kind", "known_file"), [("alert_rules", "requests.rules.yml"), ("grafana", None)])
def test_the_files_of_this_checkout_are_found(kind: str, known_file: str | None) -> None:
    """Tests run in a checkout or an editable installation: both use the repository's own files."""
    folder = deployment.deployment_files(kind)
    assert folder.name == kind
    assert known_file is None or (folder / known_file).is_file()


def test_an_installed_package_uses_the_copy_inside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another package's `grafana` beside ours is not believed."""
    package = tmp_path / "site-packages" / "self_healing_fabric"
    (package / "_deployment" / "grafana").mkdir(parents=True)
    (tmp_path / "grafana").mkdir()
    (tmp_path / "pyproject.toml").touch()
    monkeypatch.setattr(deployment, "PACKAGE", package)
    assert deployment.deployment_files("grafana") == package / "_deployment" / "grafana"


def test_a_folder_named_webhook_alone_is_no_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Vendored under `webhook/` without our project file, the package still uses its own copy."""
    package = tmp_path / "webhook" / "self_healing_fabric"
    (package / "_deployment" / "alert_rules").mkdir(parents=True)
    (tmp_path / "alert_rules").mkdir()
    monkeypatch.setattr(deployment, "PACKAGE", package)
    assert deployment.deployment_files("alert_rules") == package / "_deployment" / "alert_rules"


@pytest.mark.parametrize("kind", ["alert_rules", "no_such_kind"])
def test_missing_files_say_what_to_do(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error is one of ours, so the command line prints it as a line and not as a traceback."""
    monkeypatch.setattr(deployment, "PACKAGE", tmp_path / "self_healing_fabric")
    with pytest.raises(
        DeploymentFilesMissing, match=f"no folder '{kind}' in .*: install self-healing-fabric again"
    ):
        deployment.deployment_files(kind)
    assert issubclass(DeploymentFilesMissing, ShfError)
