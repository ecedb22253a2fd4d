"""A Kubernetes API server of the tests' own, on a fresh etcd, with rights enforced and no kubelet.

Without a kubelet nobody contradicts a test that writes what one would have written: a pod's status. All else
is real: uids and owners, managed fields, field selectors, refusals, and the controllers that make pods and
their revisions.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import signal
import ssl
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
import pytest
import yaml
from docker_engine import wait_until

from shf_demo.ports import free_ports
from shf_demo.tether import tethered

ADMIN, VISITOR = "token-of-admin", "token-of-visitor"
VISITOR_NAME = "visitor"
FABRIC = "token-of-fabric"
FABRIC_NAME = "system:serviceaccount:self-healing-fabric:self-healing-fabric"
READY_DEADLINE = 60.0  # seconds; 6 on an idle machine
STOP_GRACE = 10.0  # seconds
PROGRAMS = ("etcd", "kube-apiserver", "kube-controller-manager")
CONTROLLERS = "deployment,replicaset,statefulset,daemonset,disruption"


def require_cluster() -> None:
    """Skip, loudly, where no control plane can be started."""
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if missing:
        pytest.skip(
            f"the tests on a real Kubernetes API server need {', '.join(missing)} on PATH "
            "(etcd: Debian's etcd-server; the others: https://dl.k8s.io/release/)"
        )


class Cluster:
    """`with Cluster() as cluster:` runs one; leaving ends it and removes its data."""

    def __init__(self, *more: str, audited: bool = False) -> None:
        """`more` arguments of the API server; `audited`: it writes down who asks what."""
        self.directory = Path(tempfile.mkdtemp(prefix="shf-kubernetes-"))
        self._more, self._audited = more, audited
        self._processes: list[subprocess.Popen[bytes]] = []
        self._port, self._etcd, self._peers, self._managed = free_ports(4)
        self.url = f"https://127.0.0.1:{self._port}"
        self._api: httpx.Client | None = None

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self._clean_up()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._clean_up()

    @property
    def api(self) -> httpx.Client:
        """The administrator's client."""
        assert self._api is not None, "enter the cluster first"
        return self._api

    def grant_all(self) -> None:
        """The visitor may do everything, by RBAC: API Priority and Fairness holds no administrator back."""
        roles, group = "/apis/rbac.authorization.k8s.io/v1", "rbac.authorization.k8s.io"
        rules = [{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]
        self.create(f"{roles}/clusterroles", {"metadata": {"name": "all"}, "rules": rules})
        subjects = [{"kind": "User", "name": VISITOR_NAME, "apiGroup": group}]
        role = {"apiGroup": group, "kind": "ClusterRole", "name": "all"}
        binding = {"metadata": {"name": "all"}, "roleRef": role, "subjects": subjects}
        self.create(f"{roles}/clusterrolebindings", binding)

    def kubeconfig(self, token: str = ADMIN) -> Path:
        """A kubeconfig with the context `test` for the holder of a token."""
        path = self.directory / f"{token}.kubeconfig"
        authority = str(self.directory / "certs/apiserver.crt")
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [
                {"name": "test", "cluster": {"server": self.url, "certificate-authority": authority}}
            ],
            "users": [{"name": "test", "user": {"token": token}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
            "current-context": "test",
        }
        path.write_text(yaml.safe_dump(document))
        return path

    def create(self, path: str, body: Mapping[str, Any]) -> Any:
        """Create an object in the list of a path; returns it as the server made it."""
        answer = self.api.post(path, json=body)
        assert answer.is_success, answer.text
        return answer.json()

    def patch(self, path: str, body: Mapping[str, Any]) -> Any:
        """Merge into an object, or into its status with `/status` at the end of the path."""
        answer = self.api.patch(path, json=body, headers={"Content-Type": "application/merge-patch+json"})
        assert answer.is_success, answer.text
        return answer.json()

    def items(self, path: str) -> list[Any]:
        """The items of a list."""
        found: list[Any] = self.api.get(path).raise_for_status().json()["items"]
        return found

    def asked(self, who: str) -> list[Any]:
        """What somebody has asked the API server for so far, in order: its own audit log."""
        lines = (self.directory / "audit.log").read_text().splitlines()
        return [event for event in map(json.loads, lines) if event["user"]["username"] == who]

    def stop_api_server(self) -> None:
        """As a control plane that is away."""
        self._processes[1].kill()
        self._processes[1].wait()

    def start_api_server(self) -> None:
        """Again, with what it had stored."""
        self.launch_api_server()
        wait_until(f"the API server is ready; see {self.directory}", self._is_ready, READY_DEADLINE)

    def launch_api_server(self) -> None:
        """The same, without waiting until it is ready."""
        self._processes[1] = self._launched(*self._api_server())

    def stop_controllers(self) -> None:
        """As a controller manager that is away: orders are taken, and nobody carries them out."""
        self._processes[2].kill()
        self._processes[2].wait()

    def start_controllers(self) -> None:
        """Again; what was ordered meanwhile is carried out."""
        self._processes[2] = self._launched(*self._controllers())

    def signal_api_server(self, number: signal.Signals) -> None:
        """SIGSTOP makes it hang, SIGCONT go on."""
        self._processes[1].send_signal(number)

    def _start(self) -> None:
        certificates = self.directory / "certs"
        certificates.mkdir()
        (self.directory / "tokens.csv").write_text(
            f'{ADMIN},admin,1,"system:masters"\n{VISITOR},{VISITOR_NAME},2\n{FABRIC},{FABRIC_NAME},3\n'
        )
        key = certificates / "accounts.key"
        subprocess.run(["openssl", "genrsa", "-out", str(key), "2048"], check=True, capture_output=True)
        etcd, peers = f"http://127.0.0.1:{self._etcd}", f"http://127.0.0.1:{self._peers}"
        self._run(
            "etcd",
            f"--data-dir={self.directory / 'etcd'}",
            f"--listen-client-urls={etcd}",
            f"--advertise-client-urls={etcd}",
            f"--listen-peer-urls={peers}",
            f"--initial-advertise-peer-urls={peers}",
            f"--initial-cluster=default={peers}",
            "--unsafe-no-fsync",  # nothing here outlives the test
        )
        self._run(*self._api_server())
        authority = certificates / "apiserver.crt"
        wait_until(f"certificates; see {self.directory}", authority.exists, READY_DEADLINE)
        headers = {"Authorization": f"Bearer {ADMIN}"}
        wait_until(f"the API server is ready; see {self.directory}", self._is_ready, READY_DEADLINE)
        self._api = httpx.Client(
            base_url=self.url, headers=headers, verify=_trusting(authority), timeout=30, trust_env=False
        )
        self._run(*self._controllers())

    def _api_server(self) -> list[str]:
        certificates = self.directory / "certs"
        key = certificates / "accounts.key"
        return [
            "kube-apiserver",
            f"--etcd-servers=http://127.0.0.1:{self._etcd}",
            "--bind-address=127.0.0.1",
            "--advertise-address=127.0.0.1",
            f"--secure-port={self._port}",
            f"--cert-dir={certificates}",
            f"--token-auth-file={self.directory / 'tokens.csv'}",
            "--authorization-mode=RBAC",
            f"--service-account-key-file={key}",
            f"--service-account-signing-key-file={key}",
            "--service-account-issuer=https://kubernetes.default.svc",
            "--service-cluster-ip-range=10.0.0.0/24",
            "--disable-admission-plugins=ServiceAccount",  # it waits for accounts that a controller makes
            "--endpoint-reconciler-type=none",
            *self._audit(),
            *self._more,
        ]

    def _controllers(self) -> list[str]:
        return [
            "kube-controller-manager",
            f"--kubeconfig={self.kubeconfig()}",
            f"--controllers={CONTROLLERS}",
            f"--secure-port={self._managed}",
            f"--cert-dir={self.directory / 'managed'}",
            "--bind-address=127.0.0.1",
            "--leader-elect=false",
            *_without_an_insecure_port(),
        ]

    def _audit(self) -> list[str]:
        if not self._audited:
            return []
        policy = self.directory / "audit.yaml"
        kind = {"apiVersion": "audit.k8s.io/v1", "kind": "Policy"}
        policy.write_text(
            yaml.safe_dump({**kind, "omitStages": ["RequestReceived"], "rules": [{"level": "Metadata"}]})
        )
        return [f"--audit-policy-file={policy}", f"--audit-log-path={self.directory / 'audit.log'}"]

    def _is_ready(self) -> bool:
        ended = [process.args for process in self._processes if process.poll() is not None]
        if ended:
            raise RuntimeError(f"a server ended by itself: {ended}\n{self._tails()}")
        try:
            verify = _trusting(self.directory / "certs/apiserver.crt")
            headers = {"Authorization": f"Bearer {ADMIN}"}
            answer = httpx.get(
                f"{self.url}/readyz", headers=headers, verify=verify, timeout=2, trust_env=False
            )
        except (OSError, httpx.HTTPError):
            return False
        return answer.is_success

    def _run(self, program: str, *arguments: str) -> None:
        self._processes.append(self._launched(program, *arguments))

    def _launched(self, program: str, *arguments: str) -> subprocess.Popen[bytes]:
        with (self.directory / f"{program}.log").open("ab") as log:
            return subprocess.Popen(
                tethered([program, *arguments]), stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def _tails(self) -> str:
        logs = sorted(self.directory.glob("*.log"))
        return "\n".join(f"{log.name}: {log.read_text(errors='replace')[-1500:]}" for log in logs)

    def _clean_up(self) -> None:
        if self._api is not None:
            self._api.close()
        for process in reversed(self._processes):
            process.terminate()
        for process in reversed(self._processes):
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(STOP_GRACE)
            process.kill()
            process.wait()
        shutil.rmtree(self.directory, ignore_errors=True)


def _without_an_insecure_port() -> list[str]:
    """Before 1.24 it has one that is the same for all: two clusters on one machine would end each other."""
    told = subprocess.run(
        ["kube-controller-manager", "--version"], capture_output=True, text=True, check=True
    )
    found = re.search(r"v1\.(\d+)\.", told.stdout)
    return ["--port=0"] if found and int(found[1]) < 24 else []


def _trusting(authority: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(authority))


def moment(ago: float = 0.0) -> str:
    """A time of the API, so many seconds ago."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - ago))
