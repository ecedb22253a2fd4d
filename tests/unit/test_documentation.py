"""What the documentation says is true: its files exist, its snippets work, its lists are complete."""

from __future__ import annotations

import re
import runpy
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from self_healing_fabric.cli import main
from self_healing_fabric.configuration import load_settings

ROOT = Path(__file__).parents[2]
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("alert_rules/runbooks/*.md")]
README = (ROOT / "README.md").read_text()
SNIPPETS = [yaml.safe_load(text) for text in re.findall(r"```yaml\n(.*?)```", README, re.S)]


def snippet(key: str) -> dict[str, object]:
    """The one YAML snippet of the README that has this key."""
    (found,) = [item for item in SNIPPETS if key in item]
    return dict(found)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page: Path) -> None:
    """Every relative link of every page leads to a file or folder of the repository."""
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
        if not target.startswith(("http://", "https://")):
            assert (page.parent / target).exists(), target


def test_readme_route_is_the_shipped_one() -> None:
    """The route and the receiver of the README are those of alert_rules/alertmanager.yml, value by value."""
    shipped = yaml.safe_load((ROOT / "alert_rules/alertmanager.yml").read_text())
    shown = snippet("receivers")
    name = "self-healing-fabric"
    routes = [route for route in shipped["route"]["routes"] if route["receiver"] == name]
    assert shown["route"]["routes"] == routes  # type: ignore[index]
    assert shown["receivers"] == [item for item in shipped["receivers"] if item["name"] == name]


@pytest.mark.skipif(not shutil.which("amtool"), reason="NOT TESTED: amtool is not on PATH")
def test_readme_route_is_valid(tmp_path: Path) -> None:
    """With a receiver of one's own, Alertmanager's own tool accepts the README's snippet."""
    shown = snippet("receivers")
    shown["route"]["receiver"] = "people"  # type: ignore[index]
    shown["receivers"].append({"name": "people"})  # type: ignore[attr-defined]
    path = tmp_path / "alertmanager.yml"
    path.write_text(yaml.safe_dump(shown))
    subprocess.run(["amtool", "check-config", str(path)], check=True, capture_output=True)


def test_readme_rules_are_written_and_found_by_prometheus(tmp_path: Path) -> None:
    """`shf rules` writes what the README's `rule_files` names, and promtool accepts all of it."""
    out = tmp_path / "shf"
    result = CliRunner().invoke(main, ["rules", "--out", str(out)])
    assert result.exit_code == 0, result.output
    shown = snippet("rule_files")
    (pattern,) = shown["rule_files"]  # type: ignore[misc]
    shown["rule_files"] = [pattern.replace("/etc/prometheus/shf", str(out))]
    assert list(out.glob(Path(pattern).name))
    path = tmp_path / "prometheus.yml"
    path.write_text(yaml.safe_dump(shown))
    if not shutil.which("promtool"):
        pytest.skip("NOT TESTED: promtool is not on PATH")
    subprocess.run(["promtool", "check", "config", str(path)], check=True, capture_output=True)


def test_readme_service_is_valid(tmp_path: Path) -> None:
    """The README's `services` make a valid configuration."""
    path = tmp_path / "shf.yaml"
    path.write_text(yaml.safe_dump(snippet("services")))
    assert load_settings(path).services["cart"].recovery.http is not None


def test_configuration_page_is_generated_from_the_models() -> None:
    """docs/configuration.md is what its generator makes, with a meaning for every setting."""
    module = runpy.run_path(str(ROOT / "docs/generate_configuration.py"))
    page = module["page"]()
    assert page == (ROOT / "docs/configuration.md").read_text()
    assert not re.search(r"\| +\|$", page, re.M)
