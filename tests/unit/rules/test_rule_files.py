"""Rule files are written, checked, and accepted by Prometheus; the manifest for its operator too."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from rule_files import FAST

from self_healing_fabric.rules import (
    ADAPTERS,
    RuleParameters,
    check_rules,
    digest_of,
    prometheus_rule_manifest,
    render_rules,
    write_rules,
)


def test_files_are_written_where_asked(tmp_path: Path, shipped: dict[str, str]) -> None:
    paths = write_rules(RuleParameters(), tmp_path / "new" / "folder")
    assert {path.name: path.read_text(encoding="utf-8") for path in paths} == shipped
    assert check_rules(paths, None) == []


@pytest.mark.parametrize(
    ("parameters", "same"),
    [
        ({}, True),
        ({"heartbeat": 45}, False),
        ({"keep_firing": "50s"}, False),
        ({"adapters": ["scrape"]}, False),
    ],
)
def test_the_digest_tells_whether_the_same_is_evaluated(
    parameters: dict[str, Any], same: bool, shipped: dict[str, str]
) -> None:
    found = digest_of(render_rules(RuleParameters(**parameters)))
    assert (found == digest_of(shipped)) is same
    (rule,) = [
        rule
        for group in yaml.safe_load(shipped["meta.rules.yml"])["groups"]
        for rule in group["rules"]
        if rule.get("record") == "shf_rules:info"
    ]
    assert rule["labels"] == {"digest": digest_of(shipped)}


@pytest.mark.parametrize(
    ("content", "problem"),
    [("groups: [", "while parsing"), ("[]", "no list `groups`"), ("groups: 5", "no list `groups`")],
)
def test_broken_yaml_is_a_problem_without_promtool(tmp_path: Path, content: str, problem: str) -> None:
    path = tmp_path / "broken.rules.yml"
    path.write_text(content, encoding="utf-8")
    (found,) = check_rules([path], None)
    assert found.startswith(f"{path}: ")
    assert problem in found


def test_files_that_cannot_be_read_and_a_promtool_that_cannot_run_are_problems(tmp_path: Path) -> None:
    """Neither is "no problem found"."""
    (path,) = [path for path in write_rules(RuleParameters(), tmp_path) if path.name == "meta.rules.yml"]
    assert "No such file" in check_rules([tmp_path / "missing.yml"], None)[0]
    assert "cannot run promtool" in check_rules([path], str(tmp_path / "no-promtool"))[0]


def test_promtool_finds_broken_promql(tmp_path: Path, promtool: str) -> None:
    path = tmp_path / "broken.rules.yml"
    path.write_text("groups: [{name: a, rules: [{record: b, expr: 'sum('}]}]", encoding="utf-8")
    (problem,) = check_rules([path], promtool)
    assert "could not parse expression" in problem


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        FAST,
        {"scrape_interval": "15s", "evaluation_interval": "15s"},
        {"scrape_interval": 0.25, "heartbeat": 1},
        {"dashboard_base_url": "https://grafana.example/d/shf"},
        *({"adapters": [name]} for name in ADAPTERS),
    ],
    ids=["shipped", "fast", "15s", "fractions", "dashboard", *ADAPTERS],
)
def test_promtool_accepts_every_rendering(parameters: dict[str, Any], tmp_path: Path, promtool: str) -> None:
    assert check_rules(write_rules(RuleParameters(**parameters), tmp_path), promtool) == []


# For the Prometheus operator


def test_the_manifest_holds_all_groups_with_the_labels_that_the_operator_selects(
    shipped: dict[str, str], tmp_path: Path, promtool: str
) -> None:
    """The same rules, in one object; promtool reads its spec."""
    text = prometheus_rule_manifest(RuleParameters(), "shf", "monitoring", {"release": "prom"})
    manifest = yaml.safe_load(text)
    assert (manifest["apiVersion"], manifest["kind"]) == ("monitoring.coreos.com/v1", "PrometheusRule")
    assert manifest["metadata"] == {"name": "shf", "labels": {"release": "prom"}, "namespace": "monitoring"}
    groups = [group for text in shipped.values() for group in yaml.safe_load(text)["groups"]]
    assert manifest["spec"] == {"groups": groups}
    assert len({group["name"] for group in groups}) == len(groups), (
        "the operator refuses a group's name twice"
    )
    path = tmp_path / "spec.yml"
    path.write_text(yaml.safe_dump(manifest["spec"]), encoding="utf-8")
    assert check_rules([path], promtool) == []


def test_the_manifest_keeps_promql_readable_and_fits_into_an_object() -> None:
    """Blocks, not one long quoted line; etcd takes 1.5 MB, `kubectl apply` 256 KiB."""
    text = prometheus_rule_manifest(RuleParameters(), "shf", None, {})
    assert "namespace" not in yaml.safe_load(text)["metadata"]
    assert "expr: |" in text
    assert "\\n" not in text
    assert len(text) < 200_000


@pytest.mark.parametrize("name", ["", "Shf", "shf_rules", "-shf", "a" * 254])
def test_a_manifest_needs_a_name_that_kubernetes_takes(name: str) -> None:
    with pytest.raises(ValueError, match="no name for a Kubernetes object"):
        prometheus_rule_manifest(RuleParameters(), name, None, {})
