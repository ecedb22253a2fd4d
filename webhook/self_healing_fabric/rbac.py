"""The RBAC that a configuration needs on Kubernetes, and no more: `shf rbac`.

Whoever may patch a Deployment may change its image and mount its secrets, so a role that is copied from an
example is a hole in every namespace that needed less. What is granted here follows from the configured
services and their plans: no wildcard, names where names are known, and the rights to change something in a
role of their own, so that people can leave that out.
"""

from __future__ import annotations

import importlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import yaml

from self_healing_fabric.cluster.rights import (
    EVENTS,
    NODES,
    Right,
    configuration_rights,
    evidence_rights,
    repair_rights,
    restore_rights,
)
from self_healing_fabric.recovery.platforms import platform_of
from self_healing_fabric.recovery.strategies import strategies, usable
from self_healing_fabric.settings import Settings

API = "rbac.authorization.k8s.io"
NAME = "self-healing-fabric"
EVIDENCE, RECOVERY, CONFIGURATION = f"{NAME}-evidence", f"{NAME}-recovery", f"{NAME}-configuration"
CLUSTER = f"{NAME}-cluster"

Granted = dict[tuple[str, str], set[Right]]
"""Rights by namespace ("" for what belongs to none) and name of the role."""


def granted_rights(settings: Settings) -> Granted:
    """Everything that the fabric asks of an API server with these settings.

    Raises ClusterUnusable when a service is on Kubernetes and the extra that reaches it is not installed.
    """
    granted: Granted = defaultdict(set)
    needs_cluster = any(service.recovery.kubernetes is not None for service in settings.services.values())
    if needs_cluster:  # else what cannot be imported would look like what is not planned
        importlib.import_module("self_healing_fabric.cluster.connection")
    possible = usable(settings, strategies(settings))
    for name, service in settings.services.items():
        recovery, planned = service.recovery, possible[name]
        if recovery.kubernetes is not None:
            namespace = recovery.kubernetes.namespace
            granted[namespace, EVIDENCE].update(evidence_rights(recovery.kubernetes))
            granted["", CLUSTER].add(NODES)
            platform = platform_of(name, settings)
            if platform is not None and platform.name == "kubernetes":
                repairs = {right for each in planned for right in repair_rights(each, recovery.kubernetes)}
                repairs -= granted[namespace, EVIDENCE]
                granted[namespace, RECOVERY].update(repairs | {EVENTS} if repairs else ())
        if recovery.state is not None and recovery.state.restore_job is not None and "repair" in planned:
            job = recovery.state.restore_job
            granted[job.namespace, RECOVERY].update(restore_rights(job))
        if recovery.configuration is not None:
            for place, right in configuration_rights(recovery.configuration, writes="sync" in planned):
                granted[place, CONFIGURATION if place else CLUSTER].add(right)
    return {place: rights for place, rights in granted.items() if rights}


def documents(settings: Settings, account: str, account_namespace: str) -> list[dict[str, Any]]:
    """Roles and bindings for a service account; none when Kubernetes is not configured."""
    subject = {"kind": "ServiceAccount", "name": account, "namespace": account_namespace}
    made = []
    for (namespace, name), rights in sorted(granted_rights(settings).items()):
        kind = "Role" if namespace else "ClusterRole"
        metadata = {"name": name, "namespace": namespace} if namespace else {"name": name}
        reference = {"apiGroup": API, "kind": kind, "name": name}
        api = {"apiVersion": f"{API}/v1"}
        made.append({**api, "kind": kind, "metadata": metadata, "rules": list(_rules(rights))})
        binding = {"roleRef": reference, "subjects": [subject]}
        made.append({**api, "kind": f"{kind}Binding", "metadata": metadata, **binding})
    return made


def to_yaml(made: Sequence[Mapping[str, Any]]) -> str:
    """As `kubectl apply --filename -` reads them."""
    return str(yaml.dump_all(made, Dumper=_Dumper, sort_keys=False)) if made else ""


def _rules(rights: Iterable[Right]) -> Iterator[dict[str, Any]]:
    """Resources that share verbs and names are one rule; what has no name is never among the named."""
    verbs: dict[tuple[str, str, str], list[str]] = defaultdict(list)
    for right in sorted(rights):
        verbs[right.group, right.path, right.name].append(right.verb)
    names: dict[tuple[str, str, bool, tuple[str, ...]], list[str]] = defaultdict(list)
    for (group, path, name), allowed in verbs.items():
        names[group, path, bool(name), tuple(allowed)].append(name)
    paths: dict[tuple[str, tuple[str, ...], tuple[str, ...]], list[str]] = defaultdict(list)
    for (group, path, _, may), named in names.items():
        paths[group, tuple(filter(None, named)), may].append(path)
    for (group, only, may), resources in sorted(paths.items()):
        rule = {"apiGroups": [group], "resources": sorted(resources), "verbs": list(may)}
        yield {**rule, "resourceNames": list(only)} if only else rule


class _Dumper(yaml.SafeDumper):
    """Without anchors, which `kubectl` reads and people do not."""

    def ignore_aliases(self, data: Any) -> bool:
        return True
