"""A Job made from a named CronJob, as `kubectl create job --from=cronjob/NAME` makes it.

People who restore from a backup on Kubernetes have a CronJob for it, usually a suspended one. Its Job gets a
name that is decided on before it is ordered, so whether it was made can be asked of the API server, and a
second order of the same Job is refused by it.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any

from self_healing_fabric.cluster.objects import JSON
from self_healing_fabric.quoting import quoted
from self_healing_fabric.recovery.effects import (
    Progress,
    Settling,
    TargetUnreadable,
    unordered,
    unread,
)
from self_healing_fabric.recovery.outcomes import Outcome, Permit, Status, Untold, Untouched, forbidden
from self_healing_fabric.recovery.platforms.kubernetes.api import (
    FIELD_MANAGER,
    Api,
    NotThere,
    Refused,
    Unanswered,
)
from self_healing_fabric.recovery.platforms.kubernetes.ordering import KubernetesEffect
from self_healing_fabric.settings import KubernetesSettings, RestoreJob

LONGEST_NAME = 40  # characters of the CronJob's name in that of the Job, which also names pods
_VERSIONS = ("v1", "v1beta1")  # of CronJobs; the second up to Kubernetes 1.20


class RestoreJobs:
    """The Jobs of one CronJob."""

    longest_effect = KubernetesEffect.longest_effect

    def __init__(self, configured: RestoreJob, settings: KubernetesSettings) -> None:
        self._configured, self._settings = configured, settings
        self._title = f"CronJob {configured.namespace}/{configured.cronjob}"

    def plan(self) -> dict[str, Any]:
        """Read the CronJob and name the Job that could be made of it. Raises TargetUnreadable."""
        with Api(self._settings) as api:
            whole = self._cronjob(api)
        name = f"{self._configured.cronjob[:LONGEST_NAME]}-shf-{secrets.token_hex(5)}"
        return {"name": name, "uid": whole["metadata"]["uid"]}

    def create(self, job: Mapping[str, str], environment: Mapping[str, str], permit: Permit) -> Outcome:
        """Make the planned Job, once; every container of it gets the environment besides its own."""
        try:
            with Api(self._settings) as api:
                whole = self._cronjob(api)
                if whole["metadata"]["uid"] != job["uid"]:
                    return Outcome(Status.FAILED, f"{self._title} is another one by now; nothing was ordered")
                body = _job_of(whole, job["name"], environment)
                if not permit():
                    return forbidden()
                try:
                    api.order(
                        api.batch.create_namespaced_job,
                        self._configured.namespace,
                        body,
                        field_manager=FIELD_MANAGER,
                    )
                except Refused as error:
                    if error.status != 409:
                        return Untouched(Status.FAILED, f"{self._title}: {error}", error.again)
                    return self._learn(api, job, str(error))
                except Unanswered as error:
                    learnt = self._learn(api, job, str(error))
                    if learnt.status is not Status.FAILED:
                        return learnt
                    return Untold(Status.INDETERMINATE, learnt.detail, why=str(error))
        except TargetUnreadable as error:
            return unordered(error)
        return Outcome(Status.SUCCEEDED, f"Job {self._configured.namespace}/{job['name']} was made")

    def observe(self, job: Mapping[str, str], why: str) -> Outcome:
        """Whether the planned Job was made."""
        try:
            with Api(self._settings) as api:
                return self._learn(api, job, why)
        except TargetUnreadable as error:
            return unread(why, error)

    def settled(self, job: Mapping[str, str]) -> Settling:
        """Whether it has ended, and how. Raises TargetUnreadable."""
        with Api(self._settings) as api:
            whole = self._job(api, job)
        title = f"Job {self._configured.namespace}/{job['name']}"
        if whole is None:
            return Settling(Progress.FAILED, f"{title} is gone")
        for condition in (whole.get("status") or {}).get("conditions") or ():
            if condition.get("status") == "True" and condition.get("type") == "Complete":
                return Settling(Progress.DONE, f"{title} is complete")
            if condition.get("status") == "True" and condition.get("type") == "Failed":
                return Settling(Progress.FAILED, f"{title} failed: {quoted(condition.get('message', ''))}")
        return Settling(Progress.UNDER_WAY, f"{title} is at work")

    def check(self) -> str:
        """Read the CronJob. Raises TargetUnreadable."""
        with Api(self._settings) as api:
            self._cronjob(api)
        return f"{self._title} is there"

    def _cronjob(self, api: Api) -> JSON:
        place = (self._configured.namespace, "cronjobs", self._configured.cronjob)
        for version in _VERSIONS:
            try:
                return api.read(api.custom.get_namespaced_custom_object, "batch", version, *place)
            except NotThere as error:
                missing = error
            except TargetUnreadable as error:
                raise type(error)(f"{self._title}: {error}") from error
        raise TargetUnreadable(f"{self._title}: {missing}") from missing

    def _job(self, api: Api, job: Mapping[str, str]) -> JSON | None:
        try:
            return api.read(api.batch.read_namespaced_job, job["name"], self._configured.namespace)
        except NotThere:
            return None

    def _learn(self, api: Api, job: Mapping[str, str], why: str) -> Outcome:
        try:
            whole = self._job(api, job)
        except TargetUnreadable as error:
            return unread(why, error)
        if whole is None:
            return Outcome(Status.FAILED, f"{why}; there is no Job {job['name']}")
        return Outcome(Status.SUCCEEDED, f"{why}; Job {job['name']} is there")


def _job_of(cronjob: JSON, name: str, environment: Mapping[str, str]) -> dict[str, Any]:
    template = cronjob["spec"]["jobTemplate"]
    metadata = template.get("metadata") or {}
    spec = {**template["spec"], "template": dict(template["spec"]["template"])}
    pod = dict(spec["template"]["spec"])
    pod["containers"] = [_with(container, environment) for container in pod["containers"]]
    spec["template"]["spec"] = pod
    owner = {
        "apiVersion": cronjob.get("apiVersion", "batch/v1"),
        "kind": "CronJob",
        "name": cronjob["metadata"]["name"],
        "uid": cronjob["metadata"]["uid"],
        "controller": True,
    }
    annotations = {**(metadata.get("annotations") or {}), "cronjob.kubernetes.io/instantiate": "manual"}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": name,
            "labels": metadata.get("labels") or {},
            "annotations": annotations,
            "ownerReferences": [owner],
        },
        "spec": spec,
    }


def _with(container: JSON, environment: Mapping[str, str]) -> dict[str, Any]:
    own = [each for each in container.get("env") or () if each.get("name") not in environment]
    told = [{"name": name, "value": value} for name, value in environment.items()]
    return {**container, "env": [*own, *told]}
