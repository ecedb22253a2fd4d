"""State repair by a Job made from a CronJob, on a real API server: one Job, whatever happens to the order.

No controller runs the Job here: the test writes its end as the controller would, and is the job itself.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes_cluster import ADMIN, VISITOR, VISITOR_NAME, Cluster, require_cluster
from kubernetes_shop import Shop

from self_healing_fabric.recovery.effects import Effect, Progress, TargetUnreadable
from self_healing_fabric.recovery.outcomes import Outcome, Status
from self_healing_fabric.recovery.strategies import strategies
from self_healing_fabric.settings import Settings
from state_replica import StateReplica

pytestmark = pytest.mark.e2e

GOOD, BAD = b"balance: 42\n", b"balance: 43\n"
KEY = "i1/repair-ab"
RBAC = Path(__file__).parents[2] / "deploy/kubernetes/rbac.yaml"
_numbers = itertools.count()


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """An API server."""
    require_cluster()
    with Cluster() as cluster:
        yield cluster


class Ledger:
    """Three replicas, of which c holds another state, and the CronJob that restores."""

    def __init__(self, cluster: Cluster, directory: Path, running: ExitStack) -> None:
        self.cluster, self.directory = cluster, directory
        self.shop = Shop(cluster, f"ledger-{next(_numbers)}")
        states = {"a": GOOD, "b": GOOD, "c": BAD}
        self.replicas = {
            name: running.enter_context(StateReplica(name, state)) for name, state in states.items()
        }
        container = {"name": "restore", "image": "restore:1", "env": [{"name": "OWN", "value": "x"}]}
        template = {"spec": {"template": {"spec": {"restartPolicy": "Never", "containers": [container]}}}}
        spec = {"schedule": "0 0 1 1 *", "suspend": True, "jobTemplate": template}
        cluster.create(
            f"/apis/batch/v1beta1/namespaces/{self.shop.namespace}/cronjobs",
            {"metadata": {"name": "restore"}, "spec": spec},
        )

    def effect(self, token: str = ADMIN, cronjob: str = "restore") -> Effect:
        """As configured."""
        state = {
            "replicas": [
                {"name": name, "url": replica.url, "failure_domain": name}
                for name, replica in self.replicas.items()
            ],
            "keep_aside": str(self.directory / "aside"),
            "pause": 0,
            "restore_job": {"namespace": self.shop.namespace, "cronjob": cronjob},
        }
        settings = Settings.model_validate(
            {
                "kubernetes": {"kubeconfig": str(self.cluster.kubeconfig(token)), "context": "test"},
                "services": {"ledger": {"recovery": {"state": state}}},
            }
        )
        return strategies(settings)["repair"].on("ledger")

    @property
    def jobs(self) -> list[Any]:
        """The Jobs that there are."""
        return self.cluster.items(f"/apis/batch/v1/namespaces/{self.shop.namespace}/jobs")

    def end_job(self, condition: str) -> None:
        """As the controller writes it."""
        (job,) = self.jobs
        path = f"/apis/batch/v1/namespaces/{self.shop.namespace}/jobs/{job['metadata']['name']}/status"
        told = {"type": condition, "status": "True", "message": "because"}
        self.cluster.patch(path, {"status": {"conditions": [told]}})


@pytest.fixture
def ledger(cluster: Cluster, tmp_path: Path) -> Iterator[Ledger]:
    """A fresh one in a namespace of its own."""
    with ExitStack() as running:
        yield Ledger(cluster, tmp_path, running)


def snapshot(effect: Effect) -> Mapping[str, Any]:
    """As it comes back from the store."""
    before: Mapping[str, Any] = json.loads(json.dumps(effect.snapshot()))
    return before


def do(effect: Effect, before: Mapping[str, Any], permit: Callable[[], bool] = lambda: True) -> Outcome:
    """Perform it once."""
    return effect.perform(key=KEY, attempt=1, before=before, permit=permit)


def test_one_job_is_made_that_is_told_what_to_restore(ledger: Ledger) -> None:
    """No replica is written to by the fabric; the damaged state is kept aside before the Job is ordered."""
    effect = ledger.effect()
    before = snapshot(effect)
    outcome = do(effect, before)
    assert outcome.status is Status.SUCCEEDED, outcome.detail
    (job,) = ledger.jobs
    (container,) = job["spec"]["template"]["spec"]["containers"]
    told = {each["name"]: each["value"] for each in container["env"]}
    digest = hashlib.sha256(GOOD).hexdigest()
    version = str(before["replicas"]["c"]["gets"]["version"])
    assert told == {
        "OWN": "x", "SHF_ACTION": KEY, "SHF_REPLICAS": "c", "SHF_DIGEST": digest, "SHF_VERSION": version,
    }  # fmt: skip
    (owner,) = job["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["name"], owner["controller"]) == ("CronJob", "restore", True)
    assert all(not replica.puts for replica in ledger.replicas.values())
    assert [path.read_bytes() for path in (ledger.directory / "aside").rglob("*") if path.is_file()] == [BAD]


def test_it_has_settled_when_the_job_is_complete_and_the_bytes_are_right(ledger: Ledger) -> None:
    """A Job that says it is complete is not believed: the replica is read."""
    effect = ledger.effect()
    before = snapshot(effect)
    do(effect, before)
    assert effect.settled(before).progress is Progress.UNDER_WAY
    ledger.end_job("Complete")
    assert effect.settled(before).progress is Progress.FAILED
    ledger.replicas["c"].state = GOOD
    assert effect.settled(before).progress is Progress.DONE
    assert effect.undo(before) is None


def test_a_job_that_failed_has_not_repaired(ledger: Ledger) -> None:
    """With the controller's words."""
    effect = ledger.effect()
    before = snapshot(effect)
    do(effect, before)
    ledger.end_job("Failed")
    settling = effect.settled(before)
    assert (settling.progress, "because" in settling.detail) == (Progress.FAILED, True)


def test_after_a_crash_the_api_server_tells_and_a_second_order_makes_no_second_job(ledger: Ledger) -> None:
    """Before the order there is none; after it there is one, and the same order again finds it."""
    effect = ledger.effect()
    before = snapshot(effect)
    assert effect.observe(before).status is Status.FAILED
    do(effect, before)
    again = ledger.effect()
    assert again.observe(before).status is Status.SUCCEEDED
    assert do(effect, before).status is Status.SUCCEEDED
    assert len(ledger.jobs) == 1


def test_without_a_permit_there_is_no_job(ledger: Ledger) -> None:
    """Asked when only the order is left to be sent."""
    effect = ledger.effect()
    outcome = do(effect, snapshot(effect), lambda: False)
    assert (outcome.status, outcome.retry_in) == (Status.FAILED, 0.0)
    assert ledger.jobs == []


def test_a_cronjob_that_is_not_there_or_another_one_orders_nothing(ledger: Ledger) -> None:
    """Told before anything is announced; and one that took over the name since is not trusted."""
    with pytest.raises(TargetUnreadable, match=r"CronJob .*/nobody"):
        ledger.effect(cronjob="nobody").snapshot()
    effect = ledger.effect()
    before = snapshot(effect)
    path = f"/apis/batch/v1beta1/namespaces/{ledger.shop.namespace}/cronjobs"
    (whole,) = ledger.cluster.items(path)
    assert ledger.cluster.api.delete(f"{path}/restore?propagationPolicy=Background").is_success
    ledger.cluster.create(path, {"metadata": {"name": "restore"}, "spec": whole["spec"]})
    outcome = do(effect, before)
    assert outcome.status is Status.FAILED
    assert "is another one by now" in outcome.detail
    assert ledger.jobs == []


def test_the_shipped_role_is_needed_and_enough(ledger: Ledger) -> None:
    """Without it nothing is ordered; with it the repair and `shf check` work."""
    effect = ledger.effect(VISITOR)
    with pytest.raises(TargetUnreadable, match="not allowed"):
        effect.snapshot()
    namespace = f"namespaces/{ledger.shop.namespace}"
    user = {"kind": "User", "name": VISITOR_NAME, "apiGroup": "rbac.authorization.k8s.io"}
    for document in yaml.safe_load_all(RBAC.read_text()):
        if document["metadata"]["name"].endswith("-recovery"):
            if document["kind"] == "RoleBinding":
                document["subjects"] = [user]
            kind = f"{document['kind'].lower()}s"
            ledger.cluster.create(f"/apis/rbac.authorization.k8s.io/v1/{namespace}/{kind}", document)
    assert "CronJob" in effect.check()
    assert do(effect, snapshot(effect)).status is Status.SUCCEEDED
    assert len(ledger.jobs) == 1
