"""Rollback: the template of the newest revision that serves, when the newest one's pods are all broken.

What is written down before is which revisions they were and a fingerprint of their templates, not the
templates: those hold the values of environment variables, which belong into no other database.

A StatefulSet waits for its broken pod to become ready before it replaces it, so after a rollback it waits
for ever (kubernetes/kubernetes#67250). Therefore these pods are evicted as a part of the effect. When that
does not work, the rollback is neither done nor undone, and people are told what is left to do.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from self_healing_fabric.cluster.objects import JSON, revision_of, template_of
from self_healing_fabric.recovery.effects import (
    DIFF,
    Effect,
    NotApplicable,
    Progress,
    Settling,
    TargetAway,
    TargetUnreadable,
    changed,
    unread,
)
from self_healing_fabric.recovery.outcomes import Outcome, Permit, Status
from self_healing_fabric.recovery.platforms.kubernetes.api import (
    FIELD_MANAGER,
    JSON_PATCH,
    Api,
    NotThere,
    Refused,
    Unanswered,
)
from self_healing_fabric.recovery.platforms.kubernetes.decisions import (
    fingerprint,
    restorable,
    rollout,
    way_back,
)
from self_healing_fabric.recovery.platforms.kubernetes.eviction import (
    evict,
    is_gone,
    try_eviction,
    why_refused,
)
from self_healing_fabric.recovery.platforms.kubernetes.management import propose_instead
from self_healing_fabric.recovery.platforms.kubernetes.ordering import (
    Happened,
    KubernetesEffect,
    Seen,
    unlike,
)
from self_healing_fabric.recovery.platforms.kubernetes.workload import Place


class KubernetesRollback(KubernetesEffect):
    """The template of another revision, and back."""

    event = "SelfHealingRollback"

    def __init__(self, place: Place, *, back_from: Mapping[str, Any] | None = None) -> None:
        super().__init__(place)
        self._back_from = back_from
        self._template: JSON = {}

    def snapshot(self) -> Mapping[str, Any]:
        """Find the revision that serves; or the one that was taken back."""
        with Api(self.place.settings) as api:
            whole = self.place.to_change(api)
            if self._back_from is not None:
                return self._back(api, self._back_from, whole)
            revisions = self.place.revisions(api, whole)
            pods = self.place.pods(api, whole, revisions)
            found = way_back(self.place.kind, whole, revisions, pods)
            number = revision_of(found.good)
            propose_instead(
                whole,
                f"put the template of {self.place.title} back to that of revision {number}: {found.why}",
                self.place.kubectl(
                    "rollout",
                    "history",
                    f"{self.place.kind.lower()}/{self.place.configured.name}",
                    f"--revision={number}",
                ),
            )
            stuck = found.broken if self.place.kind == "StatefulSet" else ()
            evicted = [self._evictable(api, pod) for pod in stuck]
        before = _before(whole, found.bad, found.good)
        pods_gone = [f"- pod {pod['name']}" for pod in evicted]
        return before | {"why": found.why, "evict": evicted, DIFF: [*before[DIFF], *pods_gone]}

    def _evictable(self, api: Api, pod: JSON) -> dict[str, str]:
        name, uid = pod["metadata"]["name"], pod["metadata"]["uid"]
        version = try_eviction(api, self.place.configured.namespace, name, uid)
        return {"name": name, "uid": uid, "version": version}

    def _back(self, api: Api, was: Mapping[str, Any], whole: JSON) -> Mapping[str, Any]:
        if whole["metadata"]["uid"] != was["uid"]:
            raise NotApplicable("another object has its name now: it is left as it is")
        if fingerprint(whole["spec"]["template"]) != was["wanted"]:
            raise NotApplicable("somebody has changed its template since: it is left as it is")
        revisions = {each["metadata"]["uid"]: each for each in self.place.revisions(api, whole)}
        good, bad = revisions.get(was["to"]["uid"]), revisions.get(was["from"]["uid"])
        if good is None or bad is None or fingerprint(template_of(bad)) != was["template"]:
            raise NotApplicable(f"revision {was['from']['name']}, which was taken back, is gone")
        propose_instead(whole, f"put the template of {self.place.title} back")
        return _before(whole, good, bad) | {"why": "the rollback did not heal", "evict": []}

    def prepare(self, api: Api, before: Mapping[str, Any]) -> None:
        """The template that is put back, from the revision that was decided on."""
        revision = self.place.revision(api, before["to"]["name"])
        template = template_of(revision)
        if revision["metadata"]["uid"] != before["to"]["uid"] or fingerprint(template) != before["wanted"]:
            raise TargetUnreadable(f"revision {before['to']['name']} is not the one that it was")
        self._template = restorable(template)

    def send(self, api: Api, now: JSON, before: Mapping[str, Any]) -> None:
        """Replace the template whole: merged, it would keep what the bad revision had added."""
        metadata = now["metadata"]
        patch = [
            {"op": "test", "path": "/metadata/uid", "value": metadata["uid"]},
            {"op": "replace", "path": "/metadata/resourceVersion", "value": metadata["resourceVersion"]},
            {"op": "replace", "path": "/spec/template", "value": self._template},
        ]
        api.order(
            self.place.call(api, "patch"),
            *self.place.path,
            patch,
            field_manager=FIELD_MANAGER,
            _content_type=JSON_PATCH,
        )

    def finish(self, api: Api, before: Mapping[str, Any], permit: Permit) -> Outcome | None:
        """Evict the pods that a StatefulSet would wait for."""
        left: list[str] = []
        reason = ""
        for each in before["evict"]:
            try:
                if not permit():
                    raise Refused(0, "the fabric may no longer act")
                evict(
                    api,
                    self.place.configured.namespace,
                    each["name"],
                    each["uid"],
                    version=each["version"],
                )
            except (Refused, Unanswered) as error:
                told = why_refused(error) if isinstance(error, Refused) else str(error)
                try:
                    gone = self._is_gone(api, each)  # the controller may have been quicker
                except TargetAway as away:
                    return unread(f"{self.done(before)}; {told}", away)
                if not gone:
                    left, reason = [*left, each["name"]], told
        if not left:
            return None
        command = self.place.kubectl("delete", "pod", *left)
        return Outcome(
            Status.INDETERMINATE,
            f"{self.done(before)}; but it waits for its broken pods: {reason}. `{command}`",
        )

    def look(self, api: Api, before: Mapping[str, Any]) -> Seen:
        """The template; and a StatefulSet's broken pods, without whose end the rollback is not done."""
        seen = super().look(api, before)
        left = [each["name"] for each in before["evict"] if not self._is_gone(api, each)]
        if seen.happened is Happened.YES and left:
            command = self.place.kubectl("delete", "pod", *left)
            return Seen(Happened.UNKNOWN, f"{seen.detail}; but it waits for its broken pods. `{command}`")
        return seen

    def seen(self, now: JSON | None, before: Mapping[str, Any]) -> Seen:
        """Compare the template with the one that was ordered."""
        return rollback_seen(now, before)

    def done(self, before: Mapping[str, Any]) -> str:
        """From where to where, and why."""
        return (
            f"template put back from revision {before['from']['revision']} to that of "
            f"revision {before['to']['revision']}: {before['why']}"
        )

    def settled(self, before: Mapping[str, Any]) -> Settling:
        """As `kubectl rollout status`, while the template is the one that was ordered."""
        with Api(self.place.settings) as api:
            whole = self.place.read(api)
        seen = rollback_seen(whole, before)
        if seen.happened is not Happened.YES:
            return Settling(Progress.FAILED, seen.detail)
        return rollout(self.place.kind, whole)

    def undo(self, before: Mapping[str, Any]) -> Effect | None:
        """The template that was there before, unless somebody has changed it since."""
        return KubernetesRollback(self.place, back_from=before)

    def _is_gone(self, api: Api, each: Mapping[str, str]) -> bool:
        try:
            pod = api.read(api.core.read_namespaced_pod, each["name"], self.place.configured.namespace)
        except NotThere:
            return True
        except TargetAway:
            raise
        except TargetUnreadable:
            return False
        return is_gone(pod, each["uid"])


def rollback_seen(now: JSON | None, before: Mapping[str, Any]) -> Seen:
    """Whether a workload shows the template that was ordered."""
    if now is None:
        return Seen(Happened.UNKNOWN, "the workload is gone")
    is_it = now["metadata"]["uid"] == before["uid"]
    if is_it and fingerprint(now["spec"]["template"]) == before["wanted"]:
        return Seen(
            Happened.YES,
            f"the API server says that it has the template of revision {before['to']['revision']}",
        )
    return unlike(now, before, "the rollback")


def _before(whole: JSON, old: JSON, new: JSON) -> dict[str, Any]:
    metadata = whole["metadata"]
    return {
        "uid": metadata["uid"],
        "generation": metadata["generation"],
        "from": _reference(old),
        "to": _reference(new),
        "template": fingerprint(template_of(old)),
        "wanted": fingerprint(template_of(new)),
        DIFF: changed("template", *(f"revision {revision_of(each)}" for each in (old, new))),
    }


def _reference(revision: JSON) -> dict[str, Any]:
    metadata = revision["metadata"]
    return {"name": metadata["name"], "uid": metadata["uid"], "revision": revision_of(revision)}
