"""Reads manifests with models made from the schemas of Kubernetes and the Prometheus operator.

A program of its own, run with packages that the project does not have: they bring a pytest plugin that would
load into every run of the tests. It prints what is lost on reading.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import yaml

OPERATOR = "monitoring.coreos.com"
SHORT = {"": "core", "rbac.authorization.k8s.io": "rbac", "networking.k8s.io": "networking"}


def differences(read: Any, wanted: Any, place: str) -> list[str]:
    """Where two documents differ: a field that no schema knows is lost on reading."""
    if isinstance(wanted, dict) and isinstance(read, dict):
        keys = sorted({*read, *wanted})
        return [
            line for key in keys for line in differences(read.get(key), wanted.get(key), f"{place}.{key}")
        ]
    if isinstance(wanted, list) and isinstance(read, list) and len(read) == len(wanted):
        pairs = enumerate(zip(read, wanted, strict=True))
        return [line for n, pair in pairs for line in differences(*pair, f"{place}[{n}]")]
    return [] if read == wanted else [f"{place}: {wanted!r} is read as {read!r}"]


def main(manifests: Path) -> int:
    """0 when every document is read without loss."""
    found = []
    for document in yaml.safe_load_all(manifests.read_text()):
        group, _, version = document["apiVersion"].rpartition("/")
        package = "prometheus_operator" if group == OPERATOR else f"kubernetes.{SHORT.get(group, group)}"
        model = getattr(importlib.import_module(f"cloudcoil.models.{package}.{version}"), document["kind"])
        place = f"{document['kind']} {document['metadata']['name']}"
        try:
            read = model.model_validate(document).model_dump(mode="json", by_alias=True, exclude_unset=True)
        except ValueError as error:
            found.append(f"{place}: {error}")
        else:
            found += differences(read, document, place)
    print("\n".join(found))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
