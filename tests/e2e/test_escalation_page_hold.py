"""A page only when healing fails: shipped rules and routes on real servers, and a pager that counts.

Five services fail. One is healed, one is still being healed at the deadline, one goes to people, one is being
healed when the fabric is killed, and one fails while there is no fabric. Nothing of the shipped route's times
is shortened, so this takes minutes.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from receivers import Pager, Pretender, set_pager

from shf_demo.fleet import GUARDIANS
from shf_demo.servers import Programs
from shf_demo.stack import Stack

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

SERVICES = ("guardian-one", "guardian-two", "guardian-three", "guardian-four", "guardian-five")
HEALED, LATE, GIVEN_UP, ORPHANED, UNSEEN = SERVICES
HOLD = 60.0  # seconds: the deadline of a hold
PATIENCE = 180.0  # seconds, for busy machines
QUIET = 50.0  # seconds after a healing in which a late page would have come


@pytest.fixture(scope="module")
def pager() -> Iterator[Pager]:
    """Whom the receiver `pager` calls."""
    with Pager() as running:
        yield running


@pytest.fixture(scope="module")
def stack(programs: Programs, tmp_path_factory: pytest.TempPathFactory, pager: Pager) -> Iterator[Stack]:
    """The servers with the shipped route, whose pager is ours."""
    assert programs
    services = [service for service in GUARDIANS if service.name in SERVICES]
    with Pretender() as pretender, Stack(tmp_path_factory.mktemp("hold"), services=services) as running:
        change(running.workdir / "alertmanager.yml", lambda content: set_pager(content, pager.url))
        httpx.post(f"{running.alertmanager_url}/-/reload", trust_env=False).raise_for_status()
        running.fabric.stop()
        change(running.configuration_file, lambda content: set_escalation(content, pretender.url))
        running.fabric.start()
        running.fabric.wait_ready()
        running.wait_services_up()
        yield running


def change(path: Path, how: Callable[[dict[str, Any]], None]) -> None:
    """Change a configuration file."""
    content = yaml.safe_load(path.read_text())
    how(content)
    path.write_text(yaml.safe_dump(content))


def set_escalation(content: dict[str, Any], pretender: str) -> None:
    """Hold pages; people are called through Alertmanager. Two cannot be healed, one has no remedy."""
    levels = [{"name": f"level {number}", "call": ["human"] if number else []} for number in range(5)]
    content["escalation"] = {
        "levels": levels,
        "hold_page": {"deadline": HOLD},
        "channels": {"on-call": {"alertmanager": {}}},
        "contacts": {"human": ["on-call"]},
    }
    content["verification"]["deadline"] = "280s"
    for name in (LATE, ORPHANED):
        content["services"][name]["recovery"] = {"http": {"restart": f"{pretender}/restart"}}
    del content["services"][GIVEN_UP]["recovery"]


def alerts(stack: Stack, **labels: str) -> list[dict[str, Any]]:
    """What Alertmanager holds for active or suppressed."""
    asked = {"filter": [f'{name}="{value}"' for name, value in labels.items()]}
    answer = httpx.get(f"{stack.alertmanager_url}/api/v2/alerts", params=asked, trust_env=False)
    return list(answer.raise_for_status().json())


def held(stack: Stack, service: str) -> bool:
    """Whether the page of a service is there, and is held by the fabric's alert."""
    (source,) = alerts(stack, alertname="ShfHealing", service=service) or [None]
    pages = alerts(stack, alertname="ShfServiceFailing", service=service)
    return source is not None and any(
        source["fingerprint"] in page["status"]["inhibitedBy"] for page in pages
    )


def incident(stack: Stack, service: str) -> dict[str, Any] | None:
    """The newest incident of a service."""
    asked = {"service": service}
    answer = httpx.get(f"{stack.fabric_url}/api/v1/incidents", params=asked, trust_env=False, timeout=10)
    return next(iter(answer.raise_for_status().json()["incidents"]), None)


def in_state(stack: Stack, service: str, *states: str) -> bool:
    """Whether the service has an incident in one of these states."""
    found = incident(stack, service)
    return found is not None and found["state"] in states


def paged(pager: Pager, service: str) -> Callable[[], bool]:
    """Whether somebody was called for the service."""
    return lambda: pager.first(service) is not None


def test_people_are_paged_only_when_healing_fails(
    stack: Stack, pager: Pager, record_property: Callable[[str, object], None]
) -> None:
    """All outcomes on one stack, one after the other: first what a living fabric does, then a dead one."""
    told: dict[str, str] = {}
    began = {name: stack.inject(name, "exit").timestamp() for name in (HEALED, LATE, GIVEN_UP)}

    stack.wait_for("a page is held", lambda: held(stack, LATE), PATIENCE)
    stack.wait_for("paged: given up", paged(pager, GIVEN_UP), PATIENCE)
    at, alert = pager.first(GIVEN_UP) or (0.0, "")
    assert alert == "ShfEscalation"
    told["escalated: fault to page"] = f"{at - began[GIVEN_UP]:.1f} s"

    stack.wait_for("healed", lambda: in_state(stack, HEALED, "resolved", "closed"), PATIENCE)
    healed_at = time.time()
    assert stack.restarts(HEALED) == 1

    stack.wait_for("paged: deadline", paged(pager, LATE), PATIENCE)
    at, alert = pager.first(LATE) or (0.0, "")
    opened = (incident(stack, LATE) or {})["opened_at"]
    assert alert == "ShfServiceFailing"
    assert in_state(stack, LATE, "verifying")  # the fabric is still at work: it was the deadline
    since_opened = at - _seconds(opened)
    assert since_opened >= HOLD
    told["deadline of 60 s: incident to page"] = f"{since_opened:.1f} s"

    # One page for the incident that people were given: the other alert of the service is held by it.
    assert {alert for _, name, alert in pager.pages if name == GIVEN_UP} == {"ShfEscalation"}
    stack.wait_for("quiet", lambda: time.time() > healed_at + QUIET, PATIENCE)
    assert pager.first(HEALED) is None
    told["healed in time"] = "no page"

    stack.inject(ORPHANED, "exit")
    stack.wait_for("a page is held", lambda: held(stack, ORPHANED), PATIENCE)
    assert pager.first(ORPHANED) is None
    stack.fabric.kill()
    killed = time.time()
    _wait("paged: killed", paged(pager, ORPHANED))
    at, alert = pager.first(ORPHANED) or (0.0, "")
    assert alert == "ShfServiceFailing"
    assert at - killed < HOLD  # it was the death, not the deadline
    told["fabric killed while it heals: kill to page"] = f"{at - killed:.1f} s"

    unseen = stack.inject(UNSEEN, "exit").timestamp()
    _wait("paged: no fabric", paged(pager, UNSEEN))
    at, alert = pager.first(UNSEEN) or (0.0, "")
    assert alert == "ShfServiceFailing"
    told["no fabric: fault to page"] = f"{at - unseen:.1f} s"

    assert pager.first(HEALED) is None
    for name, value in told.items():
        record_property(name, value)
    print("\npages:", json.dumps(told, indent=2))


def _wait(what: str, condition: Callable[[], bool]) -> None:
    """As `Stack.wait_for`, when a server is dead on purpose."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, f"{what}: not within {PATIENCE:g} s"
        time.sleep(0.2)


def _seconds(moment: str) -> float:

    return datetime.fromisoformat(moment).timestamp()
