"""One key of a ConfigMap, changed by a patch that names the ConfigMap's uid and resourceVersion.

Only that key is in the patch, so nothing else of the ConfigMap can be touched. A pod that takes the key as a
variable or by `subPath` never sees the change: such a service needs `restart: true`.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

from self_healing_fabric.recovery.configuration.desired import within_limit
from self_healing_fabric.recovery.configuration.kubernetes_api import MERGE, Answer, Api, Lost
from self_healing_fabric.recovery.configuration.live import (
    FIELD_MANAGER,
    Change,
    Document,
    Running,
    Side,
    stored_bytes,
)
from self_healing_fabric.recovery.configuration.masking import Masker
from self_healing_fabric.recovery.configuration.ownership import refuse_managed
from self_healing_fabric.recovery.effects import NotApplicable, TargetUnreadable, unordered
from self_healing_fabric.recovery.outcomes import Outcome, Permit, Status, Untouched, forbidden
from self_healing_fabric.settings import ConfigMapKey, ConfigurationSettings, KubernetesSettings


class ConfigMapEntry(Document):
    """The configuration under one key."""

    platform = "kubernetes"

    def __init__(
        self,
        settings: ConfigurationSettings,
        where: ConfigMapKey,
        cluster: KubernetesSettings,
        masker: Masker,
    ) -> None:
        self.target = f"configmap:{where.namespace}/{where.name}"
        self._timeout = settings.live.timeout
        self.longest_write = self._timeout
        self._where, self._cluster = where, cluster
        super().__init__(settings.format, masker)
        self._path = f"/api/v1/namespaces/{where.namespace}/configmaps/{where.name}"

    def read(self) -> Running:
        """GET the ConfigMap; a key that it lacks is content None."""
        with Api(self._cluster, self._timeout) as api:
            return self._running(api.get(self._path))

    def _running(self, live: Mapping[str, Any]) -> Running:
        metadata, key = live.get("metadata") or {}, self._where.key
        text, binary = (live.get("data") or {}).get(key), (live.get("binaryData") or {}).get(key)
        content = None
        if text is not None:
            content = str(text).encode()
        elif binary is not None:
            content = base64.b64decode(str(binary))
        if content is not None:
            within_limit(content, f"the key {key} of {self.target}")
        version = {"uid": metadata.get("uid"), "resource_version": metadata.get("resourceVersion")}
        return Running(content, version, why_refused(live))

    def change(self, running: Running, wanted: bytes) -> Change:
        """An immutable one can only be replaced, and what a GitOps controller applies it would put back."""
        if running.refused:
            raise NotApplicable(running.refused)
        return super().change(running, wanted)

    def write(self, change: Change, *, key: str, permit: Permit) -> Outcome | str:
        """Patch the one key if it is what it was; a change of another key meanwhile is no obstacle."""
        try:
            with Api(self._cluster, self._timeout) as api:
                running = self._running(api.get(self._path))
                problem = not_as_before(running, change, self.side(change, running), self.target)
                if problem is not None:
                    return problem
                version = running.version
                metadata = {"uid": version["uid"], "resourceVersion": version["resource_version"]}
                body = {"metadata": metadata, **_entry(self._where.key, stored_bytes(change["wanted"]))}
                if not permit():
                    return forbidden()
                answer = api.patch(self._path, MERGE, body, fieldManager=FIELD_MANAGER)
        except TargetUnreadable as error:
            return unordered(error)
        except Lost as error:
            return f"no answer from the API server: {error}"
        return outcome_of(answer, self.target)


def why_refused(live: Mapping[str, Any]) -> str | None:
    """Why an object must not be written, with what to do instead; None when it may be."""
    if live.get("immutable"):
        name = f"{live.get('kind', 'it')} {live['metadata'].get('name')}"
        return f"{name} is immutable: create another one as it is wanted, and let the pods use that"
    try:
        refuse_managed(live)
    except NotApplicable as reason:
        return str(reason)
    return None


def not_as_before(running: Running, change: Change, side: Side, target: str) -> Outcome | None:
    """Why a change must not be made any more, or None."""
    if running.version["uid"] != change["version"]["uid"]:
        return Outcome(Status.FAILED, f"{target} was replaced by another one; nothing was written")
    if side is not Side.PREVIOUS:
        return Outcome(Status.FAILED, f"somebody has changed {target} meanwhile; nothing was written")
    return None


def _entry(key: str, content: bytes | None) -> dict[str, Any]:
    """The key as text, or as base64 where it is no text; the API refuses a key that is in both."""
    if content is None:
        return {"data": {key: None}, "binaryData": {key: None}}
    try:
        return {"data": {key: content.decode()}, "binaryData": {key: None}}
    except UnicodeDecodeError:
        return {"data": {key: None}, "binaryData": {key: base64.b64encode(content).decode()}}


def outcome_of(answer: Answer, target: str) -> Outcome | str:
    """What an answer to a patch means; a text where it leaves open whether it was done."""
    if answer.status == 409 and (managers := conflicting(answer)):
        names = ", ".join(managers)
        return Outcome(Status.FAILED, f"{target}: {names} manages what would be changed; nothing was written")
    if answer.status in (409, 422) and "uid" in str(answer.document.get("message", "")).lower():
        return Outcome(Status.FAILED, f"{target} was replaced by another one; nothing was written")
    if answer.status == 409:
        return Outcome(Status.FAILED, f"somebody has changed {target} meanwhile (409); nothing was written")
    if 400 <= answer.status < 500:
        return Untouched(Status.FAILED, f"{target}: {answer.message}; nothing was written", answer.again)
    return f"{target}: {answer.message}"


def conflicting(answer: Answer) -> tuple[str, ...]:
    """The other managers, with their fields, that a server-side apply ran into."""
    causes = (answer.document.get("details") or {}).get("causes") or ()
    found = []
    for cause in causes:
        if cause.get("reason") == "FieldManagerConflict":
            manager = str(cause.get("message", "")).removeprefix("conflict with ").split(" using ")[0]
            found.append(f"{manager.strip(chr(34))} ({str(cause.get('field', '')).lstrip('.')})")
    return tuple(dict.fromkeys(found))
