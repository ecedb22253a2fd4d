"""State repair by a Job made from a CronJob, on a real API server: one Job, whatever happens to the order.

No controller runs the Job here: the test writes its end as the controller would, and is the job itself.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes_cluster import ADMIN, VISITOR, VISITOR_NAME, Cluster, require_cluster
from kubernetes_shop import Shop

from cuttable_proxy import CuttableProxy
from self_healing_fabric.recovery.effects import Effect, Progress, TargetAway, TargetUnreadable
from self_healing_fabric.recovery.outcomes import Outcome, Status, Untold
from self_healing_fabric.recovery.platforms.kubernetes.restore_job import RestoreJobs
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


# --- an API server that goes away amid it


@pytest.fixture
def fragile(tmp_path: Path) -> Iterator[Ledger]:
    """One on a control plane that the test stops or kills."""
    require_cluster()
    with Cluster() as cluster, ExitStack() as running:
        yield Ledger(cluster, tmp_path, running)


def test_an_api_server_that_is_away_before_the_order_is_waited_for(fragile: Ledger) -> None:
    """At the look, before the order and when only that was left to be sent: it is done when it is back."""
    effect = fragile.effect()
    before = snapshot(effect)

    def killed() -> bool:
        fragile.cluster.stop_api_server()
        return True

    amid = do(effect, before, killed)
    assert (amid.status, amid.retry_in) == (Status.FAILED, 0.0), amid
    outcome = do(effect, before)
    assert (outcome.status, outcome.retry_in) == (Status.FAILED, 0.0), outcome
    with pytest.raises(TargetAway, match="CronJob"):
        effect.snapshot()
    fragile.cluster.start_api_server()
    assert fragile.jobs == []
    assert do(effect, before).status is Status.SUCCEEDED
    assert len(fragile.jobs) == 1


def test_an_order_that_is_lost_on_the_way_is_asked_for_again(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The network swallows it and is there again at once: no Job yet proves nothing, and later it does."""
    kubeconfig = ledger.cluster.kubeconfig()
    learn = RestoreJobs._learn
    with CuttableProxy(int(ledger.cluster.url.rpartition(":")[2])) as network:

        def cut() -> bool:
            network.blackhole()
            return True

        def learn_when_it_is_back(*arguments: Any) -> Outcome:
            network.refuse()  # what was on its way is lost
            network.forward()
            return learn(*arguments)

        effect = ledger.effect()
        monkeypatch.setattr(RestoreJobs, "_learn", learn_when_it_is_back)
        kubeconfig.write_text(
            kubeconfig.read_text().replace(ledger.cluster.url, f"https://127.0.0.1:{network.port}")
        )
        before = snapshot(effect)
        outcome = do(effect, before, cut)
        assert isinstance(outcome, Untold), outcome
        assert effect.observe(before).status is Status.FAILED
    assert ledger.jobs == []


@pytest.mark.parametrize("dies", [True, False], ids=["killed", "hangs"])
def test_an_api_server_that_goes_away_amid_the_order_tells_when_it_is_back(
    fragile: Ledger, dies: bool
) -> None:
    """It has the order and does not answer: it is asked again, and there is one Job in the end."""
    effect = fragile.effect()
    before = snapshot(effect)

    def hang() -> bool:
        fragile.cluster.signal_api_server(signal.SIGSTOP)
        return True

    outcome = do(effect, before, hang)
    try:
        assert isinstance(outcome, Untold), outcome
        assert isinstance(effect.observe(before), Untold)
    finally:
        if dies:
            fragile.cluster.stop_api_server()
            fragile.cluster.start_api_server()
        else:
            fragile.cluster.signal_api_server(signal.SIGCONT)
    if effect.observe(before).status is Status.FAILED:
        do(effect, before)
    assert effect.observe(before).status is Status.SUCCEEDED
    assert len(fragile.jobs) == 1
