"""The live scenarios end to end: really broken, heard of late, diagnosed by the running fabric, undone.

Short: two scenarios side by side, with a short delay and little history, so no more is asked of the diagnosis
than what such a history carries.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace

import httpx
import pytest

from bench.scenarios.faults import SCENARIOS
from bench.scenarios.plan import planned
from bench.scenarios.results import Result
from bench.scenarios.run import side_by_side
from bench.scenarios.shop import ShopStack
from shf_demo.servers import Programs

# On a busy machine other alerts come up beside those of the faults, as `make scenarios` itself reports.
pytestmark = [pytest.mark.e2e, pytest.mark.slow]

WARM_UP = 15.0  # seconds
DELAY = 4.0  # seconds
NAMES = ("memory-limit", "bad-configuration")


@pytest.fixture(scope="module")
def shop(programs: Programs, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ShopStack]:
    """Two lanes."""
    with ShopStack(tmp_path_factory.mktemp("shop"), lanes=2) as running:
        running.wait_services_up()
        time.sleep(WARM_UP)
        yield running


def test_faults_are_diagnosed_where_they_are_and_undone(shop: ShopStack) -> None:
    """Both are found in the right service, not before the notification was let through, and left alone."""
    some = [
        replace(planned(scenario, 1, 1), delay=DELAY, decoy="", role="cart")
        for scenario in SCENARIOS
        if scenario.name in NAMES
    ]
    results: dict[str, Result] = {}
    side_by_side(some, shop, 1, lambda result: results.update({result.scenario: result}))
    assert sorted(results) == sorted(NAMES)
    for result in results.values():
        assert result.first is not None
        assert result.notified is not None
        assert result.first.seconds >= result.notified + DELAY
        assert not result.spoiled
        assert result.right_service
    assert results["memory-limit"].right_pattern
    assert results["memory-limit"].right_class
    # Left alone: the fabric knows how to restart each of them, and none was but by its scenario.
    restarts = {service.name: shop.restarts(service.name) for service in shop.services}
    hit = {result.services[0]: 1 + (name == "bad-configuration") for name, result in results.items()}
    assert {name: count for name, count in restarts.items() if count} == hit
    # Undone: the front answers, nothing alerts, every incident is closed, the minutes are forgotten.
    for lane in shop.lanes:
        answer = httpx.get(f"http://127.0.0.1:{shop.port(f'web-{lane}')}/work", trust_env=False)
        assert answer.status_code == 200
    assert shop.alerts(shop.lanes) == 0
    assert {story["state"] for story in shop.incidents(shop.lanes, 0.0)} == {"closed"}
    for result in results.values():
        firing = f'ALERTS{{service="{result.services[0]}",alertstate="firing"}}'
        assert shop.ask_prometheus(f"max_over_time({firing}[10m])") is None
