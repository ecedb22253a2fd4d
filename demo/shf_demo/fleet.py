"""Who takes part in the demo: fourteen services, named once.

The supervisor starts them, Prometheus scrapes them, the blackbox exporter probes them and the fabric heals
them. Were the names written in each of those places, one of them would sooner or later watch a service that
another does not know, and the demo would seem to heal nothing. They all read this list.
"""

from __future__ import annotations

from dataclasses import dataclass

_GUARDIANS = ("one", "two", "three", "four", "five", "six", "seven", "eight")
_GUARDS = {  # guard -> the guardian it reports to
    "tokenguard": "guardian-one",
    "trustguard": "guardian-two",
    "flowguard": "guardian-four",
    "memoryguard": "guardian-six",
    "policyguard": "guardian-six",
    "edgeguard": "guardian-eight",
}


@dataclass(frozen=True)
class SampleService:
    name: str
    kind: str  # as in shf.yaml: guardian | guard
    health_path: str
    depends_on: tuple[str, ...] = ()
    module: str = "shf_demo.sample_service"  # what is run


GUARDIANS = tuple(SampleService(f"guardian-{number}", "guardian", "/api/v1/health") for number in _GUARDIANS)
GUARDS = tuple(SampleService(name, "guard", "/health", (guardian,)) for name, guardian in _GUARDS.items())
FLEET = GUARDIANS + GUARDS
