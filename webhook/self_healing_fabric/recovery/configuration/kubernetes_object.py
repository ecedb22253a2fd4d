"""One object on Kubernetes, against its manifest, by server-side apply.

A comparison of texts would report every default that the server filled in. So the server is asked what would
become of the object if the manifest were applied (a dry run), and that is compared with what it is: exact
paths, and nothing for what nobody wants changed. Fields that others own and the manifest does not name are
told, and never touched.

What is taken back are only the fields that the apply changed. The whole previous object would undo what an
autoscaler or a controller has done since.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from self_healing_fabric.recovery.configuration.config_map import (
    conflicting,
    not_as_before,
    outcome_of,
    why_refused,
)
from self_healing_fabric.recovery.configuration.desired import within_limit
from self_healing_fabric.recovery.configuration.drift import Drift, Unparsable, compare_documents, parse
from self_healing_fabric.recovery.configuration.kubernetes_api import APPLY, MERGE, Answer, Api, Lost
from self_healing_fabric.recovery.configuration.live import FIELD_MANAGER, Change, Running, Side
from self_healing_fabric.recovery.configuration.masking import Masker
from self_healing_fabric.recovery.configuration.ownership import foreign_fields, own_fields
from self_healing_fabric.recovery.effects import (
    NotApplicable,
    TargetAway,
    TargetUnreadable,
    unordered,
    unreadable,
)
from self_healing_fabric.recovery.outcomes import Outcome, Permit, forbidden
from self_healing_fabric.settings import ConfigurationSettings, KubernetesObject, KubernetesSettings

TRIES = 3  # of one write, while the API server says that it was of an old version
_OF_THE_SERVER = (
    *("managedFields", "resourceVersion", "generation", "uid", "creationTimestamp", "selfLink"),
)
_OF_CONTROLLERS = ("deployment.kubernetes.io/revision",)  # annotations that count what was rolled out
_HIDDEN = {"Secret": ("data", "stringData")}


class AppliedObject:
    """The object that the configuration names; a manifest of another one is refused."""

    platform = "kubernetes"

    def __init__(
        self,
        settings: ConfigurationSettings,
        where: KubernetesObject,
        cluster: KubernetesSettings,
        masker: Masker,
    ) -> None:
        place = f"{where.namespace}/" if where.namespace else ""
        self.target = f"{where.kind.lower()}:{place}{where.name}"
        self.longest_write = settings.live.timeout
        self._timeout, self._force = settings.live.timeout, settings.force
        self._where, self._cluster, self._masker = where, cluster, masker

    def read(self) -> Running:
        """The object without what the server and controllers write into it."""
        with Api(self._cluster, self._timeout) as api:
            return _running(api.get(self._path(api)), self.target)

    def drift(self, running: Running, wanted: bytes) -> Drift:
        """Compared with what the API server says would become of it."""
        live = json.loads(running.content or b"{}")
        with Api(self._cluster, self._timeout) as api:
            path = self._path(api)
            would = self._dry_run(api, path, self._manifest(wanted), force=True)
            notes = foreign_fields(api.get(path), own_fields(would))
        return compare_documents(
            live,
            _configuration_in(would),
            self._masker,
            hidden=_HIDDEN.get(self._where.kind, ()),
            notes=notes,
        )

    def change(self, running: Running, wanted: bytes) -> Change:
        """The manifest, and what it changes and what that was, as patches of only those fields."""
        if running.refused:
            raise NotApplicable(running.refused)
        manifest, live = self._manifest(wanted), json.loads(running.content or b"{}")
        with Api(self._cluster, self._timeout) as api:
            path = self._path(api)
            force = self._must_force(api, path, manifest)
            would = _configuration_in(self._dry_run(api, path, manifest, force=True))
        return {
            "manifest": manifest,
            "forward": patch_between(live, would),
            "back": patch_between(would, live),
            "force": force,
            "version": dict(running.version),
        }

    def reverse(self, change: Change, running: Running) -> Change:
        """The patches exchanged; without a manifest, for what was is no longer what somebody wants."""
        return {"forward": change["back"], "back": change["forward"], "version": dict(running.version)}

    def side(self, change: Change, running: Running) -> Side:
        """Whether the changed fields are as after or as before; other fields do not matter."""
        live = json.loads(running.content or b"{}")
        if patched(live, change["forward"]) == live:
            return Side.WANTED
        return Side.PREVIOUS if patched(live, change["back"]) == live else Side.NEITHER

    def write(self, change: Change, *, key: str, permit: Permit) -> Outcome | str:
        """Apply, or patch back, if the fields are what they were; a new status is no obstacle."""
        try:
            with Api(self._cluster, self._timeout) as api:
                path = self._path(api)
                for _ in range(TRIES):
                    running = _running(api.get(path), self.target)
                    problem = not_as_before(running, change, self.side(change, running), self.target)
                    if problem is not None:
                        return problem
                    if not permit():
                        return forbidden()
                    answer = self._send(api, path, change, running)
                    # A status that a controller wrote in between is a new version, too: nothing was done.
                    if answer.status != 409 or conflicting(answer):
                        break
        except TargetUnreadable as error:
            return unordered(error)
        except Lost as error:
            return f"no answer from the API server: {error}"
        return outcome_of(answer, self.target)

    def _send(self, api: Api, path: str, change: Change, running: Running) -> Answer:
        version = running.version
        exactly = {"uid": version["uid"], "resourceVersion": version["resource_version"]}
        applied = "manifest" in change
        body = dict(change["manifest"] if applied else change["forward"])
        body["metadata"] = {**(body.get("metadata") or {}), **exactly}
        if not applied:
            return api.patch(path, MERGE, body, fieldManager=FIELD_MANAGER)
        force = {"force": "true"} if change["force"] else {}
        return api.patch(path, APPLY, body, fieldManager=FIELD_MANAGER, **force)

    def _path(self, api: Api) -> str:
        """Where the object is; the server says what the plural of its kind is. Raises TargetUnreadable."""
        where = self._where
        group = f"/apis/{where.api_version}" if "/" in where.api_version else f"/api/{where.api_version}"
        for each in api.get(group).get("resources") or ():
            if each.get("kind") == where.kind and "/" not in each.get("name", "/"):
                if bool(each.get("namespaced")) is not (where.namespace is not None):
                    raise TargetUnreadable(
                        f"a {where.kind} is {'' if each.get('namespaced') else 'not '}in a namespace: "
                        "correct live.object.namespace"
                    )
                inside = f"/namespaces/{where.namespace}" if where.namespace else ""
                return f"{group}{inside}/{each['name']}/{where.name}"
        raise TargetUnreadable(f"the API server knows no kind {where.kind} in {where.api_version}")

    def _manifest(self, wanted: bytes) -> dict[str, Any]:
        """The manifest without what is the server's. Raises Unparsable, TargetUnreadable."""
        document = parse(wanted, "yaml")
        if not isinstance(document, dict) or not isinstance(document.get("metadata"), dict):
            raise Unparsable("it is no manifest of one object")
        where, metadata = self._where, document["metadata"]
        found = (document.get("apiVersion"), document.get("kind"), metadata.get("name"))
        if found != (where.api_version, where.kind, where.name) or (
            metadata.get("namespace", where.namespace) != where.namespace
        ):
            raise TargetUnreadable(
                f"the manifest is not that of {self.target}, which the configuration names"
            )
        kept = {key: value for key, value in metadata.items() if key not in _OF_THE_SERVER}
        return {**{key: document[key] for key in document if key != "status"}, "metadata": kept}

    def _dry_run(self, api: Api, path: str, manifest: Mapping[str, Any], *, force: bool) -> Mapping[str, Any]:
        answer = self._try(api, path, manifest, force=force)
        if not answer.ok:
            told = f"{self.target} would not take the manifest: {answer.message}"
            raise unreadable(answer.status, told)
        return answer.document

    def _try(self, api: Api, path: str, manifest: Mapping[str, Any], *, force: bool) -> Answer:
        parameters = {"dryRun": "All", "fieldManager": FIELD_MANAGER}
        try:
            return api.patch(path, APPLY, manifest, **parameters, **({"force": "true"} if force else {}))
        except Lost as error:
            raise TargetAway(f"the API server cannot be asked: {error}") from error

    def _must_force(self, api: Api, path: str, manifest: Mapping[str, Any]) -> bool:
        """Whether fields must be taken over. Raises NotApplicable when they are another manager's.

        What we ourselves have patched back belongs to us under another operation, and would be a conflict
        with ourselves.
        """
        answer = self._try(api, path, manifest, force=False)
        managers = conflicting(answer) if answer.status == 409 else ()
        others = [each for each in managers if not each.startswith(f"{FIELD_MANAGER} (")]
        if others and not self._force:
            raise NotApplicable(
                f"{', '.join(others)} manages what would be changed: agree on one owner, or set "
                "configuration.force to take the fields over"
            )
        return bool(managers)


def _running(live: Mapping[str, Any], target: str) -> Running:
    content = json.dumps(_configuration_in(live), sort_keys=True, ensure_ascii=False).encode()
    metadata = live.get("metadata") or {}
    version = {"uid": metadata.get("uid"), "resource_version": metadata.get("resourceVersion")}
    return Running(within_limit(content, target), version, why_refused(live))


def _configuration_in(live: Mapping[str, Any]) -> dict[str, Any]:
    """The object without its status and without what the server and controllers keep in its metadata."""
    metadata = {
        key: value for key, value in (live.get("metadata") or {}).items() if key not in _OF_THE_SERVER
    }
    annotations = {
        key: value for key, value in (metadata.get("annotations") or {}).items() if key not in _OF_CONTROLLERS
    }
    metadata = {key: value for key, value in metadata.items() if key != "annotations"}
    if annotations:
        metadata["annotations"] = annotations
    return {**{key: live[key] for key in live if key != "status"}, "metadata": metadata}


def patch_between(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """The merge patch (RFC 7386) that turns the first document into the second; lists are replaced whole."""
    patch: dict[str, Any] = {key: None for key in one if key not in other}
    for key, value in other.items():
        before = one.get(key)
        if isinstance(before, Mapping) and isinstance(value, Mapping):
            below = patch_between(before, value)
            if below:
                patch[key] = below
        elif key not in one or before != value:
            patch[key] = value
    return patch


def patched(document: Mapping[str, Any], patch: Mapping[str, Any]) -> dict[str, Any]:
    """A document with a merge patch (RFC 7386) applied."""
    result = dict(document)
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        elif isinstance(value, Mapping):
            before = result.get(key)
            result[key] = patched(before if isinstance(before, Mapping) else {}, value)
        else:
            result[key] = value
    return result
