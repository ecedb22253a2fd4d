"""The roles that follow from a configuration; that they are enough and not too much, tests/e2e shows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from missing_extra import take_away
from self_healing_fabric.cli import main
from self_healing_fabric.cluster.rights import (
    EVENTS,
    NODES,
    configuration_rights,
    evidence_rights,
    repair_rights,
    restore_rights,
)
from self_healing_fabric.settings import ConfigurationSettings, KubernetesRecovery, RestoreJob

DEPLOYED = Path(__file__).parents[2] / "deploy/kubernetes"


def rbac(folder: Path, services: dict[str, Any], *words: str, **more: Any) -> Result:
    """What `shf rbac` makes of these services."""
    file = folder / "shf.yaml"
    file.write_text(yaml.safe_dump({"services": services, **more}))
    return CliRunner().invoke(main, ["rbac", "--config", str(file), *words])


def on_kubernetes(
    name: str, kind: str = "Deployment", namespace: str = "shop", **more: Any
) -> dict[str, Any]:
    """A service with a workload."""
    return {"recovery": {"kubernetes": {"namespace": namespace, "name": name}}, **more}


def rules_of(printed: Result, role: str) -> list[dict[str, Any]]:
    """The rules of the role with this name."""
    documents = [
        each for each in yaml.safe_load_all(printed.stdout) if each["metadata"]["name"].endswith(role)
    ]
    return [rule for document in documents for rule in document.get("rules", [])]


def test_no_wildcard_and_names_where_they_are_known(tmp_path: Path) -> None:
    """Two workloads of one kind are one rule with two names; each namespace has its own role and binding."""
    services = {
        "cart": on_kubernetes("cart"),
        "web": on_kubernetes("web"),
        "ads": on_kubernetes("ads", namespace="media"),
    }
    printed = rbac(tmp_path, services, "--service-account", "healer", "--namespace", "ops")
    documents = list(yaml.safe_load_all(printed.stdout))
    assert "*" not in printed.stdout
    assert {"name": "healer", "namespace": "ops", "kind": "ServiceAccount"} in documents[1]["subjects"]
    places = [
        (each["kind"], each["metadata"].get("namespace"))
        for each in documents
        if each["metadata"]["name"].endswith("recovery")
    ]
    assert places == [("Role", "media"), ("RoleBinding", "media"), ("Role", "shop"), ("RoleBinding", "shop")]
    (patched,) = [
        rule
        for document in documents
        if document["metadata"].get("namespace") == "shop"
        for rule in document.get("rules", ())
        if rule["resources"] == ["deployments"] and rule["verbs"] == ["patch"]
    ]
    assert patched["resourceNames"] == ["cart", "web"]


def test_what_is_repaired_elsewhere_is_only_read(tmp_path: Path) -> None:
    """A workload that is named for evidence beside an HTTP target is not repaired on Kubernetes."""
    service = on_kubernetes("cart")
    service["recovery"]["http"] = {"restart": "http://cart:8080/restart"}
    printed = rbac(tmp_path, {"cart": service})
    assert rules_of(printed, "evidence")
    assert rules_of(printed, "recovery") == []


def test_rights_follow_the_plans(tmp_path: Path) -> None:
    """Who only restarts may neither scale nor evict."""
    nothing = {"transient": [], "degradation": []}
    service = on_kubernetes("cart", plans={**nothing, "service_failure": ["restart"]})
    printed = rbac(tmp_path, {"cart": service})
    assert rules_of(printed, "recovery") == [
        {"apiGroups": [""], "resources": ["events"], "verbs": ["create"]},
        {"apiGroups": ["apps"], "resources": ["deployments"], "verbs": ["patch"], "resourceNames": ["cart"]},
    ]


def test_an_object_of_the_cluster_needs_a_cluster_role(tmp_path: Path) -> None:
    """A configuration without a namespace; the plural is guessed as clients do."""
    manifest = tmp_path / "policy.yaml"
    manifest.write_text("{}")
    live = {"object": {"api_version": "example.org/v1", "kind": "Policy", "name": "limits"}}
    configuration = {"desired": {"manifest": str(manifest)}, "live": live}
    printed = rbac(tmp_path, {"cart": {"recovery": {"configuration": configuration}}})
    assert rules_of(printed, "cluster") == [
        {
            "apiGroups": ["example.org"],
            "resources": ["policies"],
            "verbs": ["get", "patch"],
            "resourceNames": ["limits"],
        }
    ]


def test_without_kubernetes_there_is_nothing_to_grant(tmp_path: Path) -> None:
    """An empty list for programs, nothing for kubectl, a note for people."""
    printed = rbac(tmp_path, {"cart": {}}, "--json")
    assert json.loads(printed.stdout)["items"] == []
    assert "no service of this configuration is on Kubernetes" in printed.stderr
    assert rbac(tmp_path, {"cart": {}}).stdout == ""


def test_without_the_extra_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be imported must not look like what is not planned: roles would lack rights."""
    take_away("kubernetes", monkeypatch)
    printed = rbac(tmp_path, {"cart": on_kubernetes("cart")})
    assert printed.exit_code == 1
    assert "pip install 'self-healing-fabric[kubernetes]'" in printed.stderr


def test_the_roles_for_a_whole_namespace_grant_the_same() -> None:
    """deploy/kubernetes/rbac*.yaml, for those who would rather not name their workloads, hold the verbs on
    resources that the generated roles are made of, with every strategy on every kind of workload."""
    wanted = {EVENTS, NODES}
    for kind in ("Deployment", "StatefulSet", "DaemonSet"):
        target = KubernetesRecovery(namespace="shop", name="cart", kind=kind)
        wanted |= set(evidence_rights(target))
        strategies = {"restart", "evict", "rollback"} | ({"scale"} if kind != "DaemonSet" else set())
        wanted |= {right for each in strategies for right in repair_rights(each, target)}
    wanted |= set(restore_rights(RestoreJob(namespace="shop", cronjob="restore")))
    live = {"configmap": {"namespace": "shop", "name": "cart", "key": "cart.yaml"}}
    configuration = ConfigurationSettings.model_validate({"desired": {"file": "cart.yaml"}, "live": live})
    wanted |= {right for _, right in configuration_rights(configuration, writes=True)}
    granted = {
        (verb, group, resource)
        for name in ("rbac.yaml", "rbac-configuration.yaml")
        for document in yaml.safe_load_all((DEPLOYED / name).read_text())
        for rule in document.get("rules", ())
        for verb in rule["verbs"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }
    assert granted == {(right.verb, right.group, right.path) for right in wanted}
