"""What is deployed on Kubernetes: rendered by kubectl, known to the schemas, taken by a real API server.

The schemas are those of Kubernetes 1.32 and of version 0.80 of the Prometheus operator. The API server may be
older: what it does not serve yet is named here and applied in the version before.
"""

from __future__ import annotations

import copy
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from docker_engine import wait_until
from kubernetes_cluster import ADMIN, FABRIC, Cluster, require_cluster
from pytest_httpserver import HTTPServer
from rules_server import prometheus_with_rules

from self_healing_fabric.cli import main
from self_healing_fabric.configuration import load_settings
from self_healing_fabric.rules import RuleParameters
from shf_demo.ports import reserved_ports

pytestmark = pytest.mark.e2e

FOLDER = Path(__file__).parents[2] / "deploy/kubernetes"
OVERLAYS = ("sqlite", "postgresql")
NAME = "self-healing-fabric"
OPERATOR = "monitoring.coreos.com"
RULES = "../components/prometheus-operator/prometheus-rule.yaml"
SCHEMAS = ("cloudcoil-models-kubernetes==1.32.1.3", "cloudcoil-models-prometheus-operator==0.80.1.0")


def render(overlay: str) -> list[dict[str, Any]]:
    """All objects of an overlay, as `kubectl kustomize` renders it."""
    if shutil.which("kubectl") is None:
        reason = "NOT TESTED: kubectl, which renders the manifests, is not on PATH"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    command = ["kubectl", "kustomize", FOLDER / "overlays" / overlay]
    return list(
        yaml.safe_load_all(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    )


@pytest.fixture(params=OVERLAYS)
def rendered(request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    """One overlay after the other."""
    return render(request.param)


def of_kind(rendered: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    """The objects of a kind."""
    return [each for each in rendered if each["kind"] == kind]


@pytest.fixture(scope="session")
def schemas() -> list[str]:
    """The command that reads manifests with them, with packages of its own."""
    command = [str(Path(sys.executable).parent / "uv"), "run", "--quiet", "--no-project", "--isolated"]
    command += [word for package in SCHEMAS for word in ("--with", package)]
    try:
        done = subprocess.run([*command, "true"], capture_output=True, text=True, timeout=120, check=False)
    except subprocess.TimeoutExpired as error:
        pytest.skip(f"NOT COMPARED WITH THE SCHEMAS: {error}")
    if done.returncode:
        pytest.skip(f"NOT COMPARED WITH THE SCHEMAS, which come from the package index: {done.stderr}")
    return [*command, "python", str(Path(__file__).with_name("manifest_schemas.py"))]


def test_the_schemas_know_every_field(schemas: list[str], tmp_path: Path) -> None:
    """Read by models that are made of the schemas and written again, nothing is lost; a typing error is."""
    documents = [document for overlay in OVERLAYS for document in render(overlay)]
    wrong = copy.deepcopy(of_kind(documents, "ServiceMonitor")[0])
    wrong["spec"]["endpoints"][0]["intervall"] = "5s"
    manifest = tmp_path / "all.yaml"
    manifest.write_text(yaml.safe_dump_all([*documents, wrong]))
    done = subprocess.run([*schemas, manifest], capture_output=True, text=True, check=False)
    (lost,) = (done.stdout + done.stderr).strip().splitlines()
    assert "intervall" in lost


def test_pods_are_what_the_restricted_standard_asks_for(rendered: list[dict[str, Any]]) -> None:
    """Each control of the Pod Security Standard `restricted`, and a root file system that nobody writes."""
    (namespace,) = of_kind(rendered, "Namespace")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    (deployment,) = of_kind(rendered, "Deployment")
    pod = deployment["spec"]["template"]["spec"]
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] == 10001
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    volumes = {kind for volume in pod["volumes"] for kind in volume if kind != "name"}
    assert volumes <= {"configMap", "secret", "emptyDir", "persistentVolumeClaim", "projected", "downwardAPI"}
    for container in (*pod["containers"], *pod.get("initContainers", ())):
        context = container["securityContext"]
        assert context["allowPrivilegeEscalation"] is False
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert context["readOnlyRootFilesystem"] is True
        assert not any("hostPort" in port for port in container["ports"])
        assert container["resources"]["requests"]
        assert container["resources"]["limits"]["memory"]
        assert {"startupProbe", "livenessProbe", "readinessProbe"} <= set(container)


def test_replicas_follow_from_the_store(rendered: list[dict[str, Any]]) -> None:
    """One writer of a SQLite file and never two at once; two on PostgreSQL, of which one stays."""
    (deployment,) = of_kind(rendered, "Deployment")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    store = next(each["value"] for each in container["env"] if each["name"] == "SHF_STORE")
    if store.startswith("sqlite"):
        assert deployment["spec"]["replicas"] == 1
        assert deployment["spec"]["strategy"] == {"type": "Recreate"}
        assert not of_kind(rendered, "PodDisruptionBudget")
    else:
        assert deployment["spec"]["replicas"] == 2
        (budget,) = of_kind(rendered, "PodDisruptionBudget")
        assert budget["spec"]["minAvailable"] == 1
        assert budget["spec"]["selector"] == deployment["spec"]["selector"]


def test_what_is_configured_is_valid_where_it_runs(
    rendered: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ConfigMap's file with the pod's variables, its secrets where they are mounted."""
    (deployment,) = of_kind(rendered, "Deployment")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    (config_map,) = of_kind(rendered, "ConfigMap")
    assert config_map["metadata"]["name"].startswith(f"{NAME}-")  # with its hash: a change rolls out
    mounted = {mount["mountPath"] for mount in container["volumeMounts"]}
    for each in container["env"]:
        value = each["value"]
        if each["name"].endswith("_FILE"):
            assert str(Path(value).parent) in mounted
            secret = tmp_path / Path(value).name
            secret.write_text("a-secret-of-some-length")
            value = str(secret)
        monkeypatch.setenv(each["name"], value)
    file = tmp_path / "shf.yaml"
    file.write_text(config_map["data"]["shf.yaml"])
    settings = load_settings(file)
    assert settings.listen == f"0.0.0.0:{container['ports'][0]['containerPort']}"
    assert settings.mode == "dry_run"


def test_the_operator_leaves_the_fabrics_own_labels(tmp_path: Path, httpserver: HTTPServer) -> None:
    """A target of a ServiceMonitor is labelled with its own service; dashboards ask for the healed one."""
    (monitor,) = of_kind(render("sqlite"), "ServiceMonitor")
    (endpoint,) = monitor["spec"]["endpoints"]
    state = 'shf_service_state{service="cart"} 0\nshf_build_info{version="1"} 1\n'
    httpserver.expect_request(endpoint["path"]).respond_with_data(state, content_type="text/plain")
    labels = {"service": NAME, "namespace": NAME, "endpoint": endpoint["port"]}  # as the operator sets them
    job = {
        "job_name": NAME,
        "honor_labels": endpoint.get("honorLabels", False),
        "static_configs": [{"targets": [f"{httpserver.host}:{httpserver.port}"], "labels": labels}],
    }
    with (
        reserved_ports(1) as (port,),
        prometheus_with_rules(tmp_path, port, RuleParameters(), [job]) as prometheus,
    ):

        def services() -> list[str | None]:
            found = prometheus.get("/api/v1/query", params={"query": "shf_service_state"}).json()
            return [each["metric"].get("service") for each in found["data"]["result"]]

        wait_until("the fabric is scraped", lambda: bool(services()))
        assert services() == ["cart"]


def test_generated_files_are_what_the_commands_write(monkeypatch: pytest.MonkeyPatch) -> None:
    """The roles are those of the base's configuration, the rules those of the templates."""
    monkeypatch.chdir(FOLDER / "base")
    for command, path in (
        (["rbac", "--config", "shf.yaml"], "rbac.yaml"),
        (["rules", "--format", "prometheusrule", "--namespace", NAME], RULES),
    ):
        printed = CliRunner().invoke(main, command)
        assert printed.exit_code == 0, printed.output
        assert Path(path).read_text() == printed.stdout, f"run in base: shf {' '.join(command)} > {path}"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """An API server with the namespace of the base's one service."""
    require_cluster()
    with Cluster() as cluster:
        cluster.create("/api/v1/namespaces", {"metadata": {"name": "shop"}})
        yield cluster


def served(cluster: Cluster, document: dict[str, Any]) -> dict[str, Any]:
    """The same in a version that the server has: `policy/v1` came with 1.21."""
    if document["apiVersion"] == "policy/v1" and cluster.api.get("/apis/policy/v1").status_code == 404:
        return {**document, "apiVersion": "policy/v1beta1"}
    return document


def test_an_api_server_takes_all_of_it(
    cluster: Cluster, rendered: list[dict[str, Any]], tmp_path: Path
) -> None:
    """Applied by kubectl with validation, also over the other overlay, then unchanged; by the server too, as
    Argo CD and Flux do; the rights hold."""
    manifest = tmp_path / "all.yaml"
    # Not the operator's kinds: custom resources end the process of some builds of old API servers.
    core = [served(cluster, each) for each in rendered if not each["apiVersion"].startswith(OPERATOR)]
    manifest.write_text(yaml.safe_dump_all(core))
    said = [kubectl(cluster, "apply", "--validate=true", "--filename", str(manifest)) for _ in range(2)]
    assert len(said[0].splitlines()) == len(core)
    assert all(line.endswith(" unchanged") for line in said[1].splitlines()), said[1]
    server_side = kubectl(cluster, "apply", "--server-side", "--force-conflicts", "--filename", str(manifest))
    assert len(server_side.splitlines()) == len(core)
    (deployment,) = of_kind(rendered, "Deployment")
    path = f"/apis/apps/v1/namespaces/{NAME}/deployments/{NAME}"
    assert cluster.api.get(path).json()["spec"]["replicas"] == deployment["spec"]["replicas"]
    for verb, what, allowed in (
        ("patch", "deployments/cart", True),
        ("patch", "deployments/other", False),
        ("delete", "pods", False),
        ("get", "secrets", False),
        ("create", "pods/eviction", True),
    ):
        resource, _, rest = what.partition("/")
        subresource = ["--subresource=eviction"] if rest == "eviction" else []
        name = what if not subresource else resource
        answer = kubectl(cluster, "auth", "can-i", verb, name, "-n", "shop", *subresource, who=FABRIC)
        assert answer.strip() == ("yes" if allowed else "no"), (verb, what)


def kubectl(cluster: Cluster, *words: str, who: str = ADMIN) -> str:
    """What it prints; a failure is one, but for the answer `no`."""
    done = subprocess.run(
        ["kubectl", f"--kubeconfig={cluster.kubeconfig(who)}", *words],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0 or done.stdout.strip() == "no", done.stderr
    return done.stdout
