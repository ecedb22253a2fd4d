"""Kubernetes as both sides see it: who reads a workload to diagnose it, and who repairs it.

How the API server is reached (`connection`) and what its objects say (`objects`, pure reading of JSON) must
be the same for both: a repair of pods that the diagnosis did not mean would be the worst of all mistakes.
"""

from __future__ import annotations

from self_healing_fabric.errors import ShfError


class ClusterUnusable(ShfError):
    """No API server can be asked: install the extra, or correct `kubernetes` in the configuration."""
