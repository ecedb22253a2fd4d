"""The demo's platform restarts exactly as often as it was asked to, and never by itself."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from shf_demo import shop_service
from shf_demo.fleet import FLEET, GUARDIANS, GUARDS, SampleService
from shf_demo.supervisor import Supervisor, is_healthy

TOKENGUARD = "tokenguard"


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[Supervisor]:
    with Supervisor((GUARDS[0], GUARDIANS[0]), tmp_path) as running:
        yield running


@pytest.fixture
def http(supervisor: Supervisor) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=supervisor.url, timeout=20.0, trust_env=False) as client:
        yield client


def restart(http: httpx.Client, key: str | None = None) -> httpx.Response:
    headers = {"Idempotency-Key": key} if key else {}
    return http.post(f"/services/{TOKENGUARD}/restart", headers=headers)


def break_service(supervisor: Supervisor, kind: str) -> None:
    url = f"http://127.0.0.1:{supervisor.state(TOKENGUARD).port}/fault"
    httpx.post(url, json={"kind": kind}, trust_env=False).raise_for_status()


def answers(supervisor: Supervisor) -> bool:
    return is_healthy(supervisor.state(TOKENGUARD).port, "/health")


def test_the_fleet_is_that_of_the_mission() -> None:
    """Eight guardians and six guards, tokenguard and trustguard among them, every dependency a member."""
    names = [service.name for service in FLEET]
    assert (len(GUARDIANS), len(GUARDS), len(set(names))) == (8, 6, 14)
    assert {"guardian-one", "guardian-eight", "tokenguard", "trustguard"} < set(names)
    assert all(dependency in names for service in FLEET for dependency in service.depends_on)


def test_a_restart_is_a_new_process_that_answers(http: httpx.Client, supervisor: Supervisor) -> None:
    """The answer to the restart names the new process; its health endpoint answers on the same port."""
    before = http.get(f"/services/{TOKENGUARD}").json()
    after = restart(http).json()
    assert (before["restarts"], after["restarts"]) == (0, 1)
    assert before["pid"] != after["pid"]
    assert before["started_at"] != after["started_at"]
    assert before["port"] == after["port"]
    assert http.get(f"/services/{TOKENGUARD}").json() == after
    assert answers(supervisor)


def test_the_same_key_twice_is_one_restart(http: httpx.Client) -> None:
    """The second request gets the first one's answer; another key is another restart."""
    first, again, other = restart(http, "a-1"), restart(http, "a-1"), restart(http, "a-2")
    assert first.json() == again.json()
    assert (first.json()["restarts"], other.json()["restarts"]) == (1, 2)


def test_the_same_key_at_the_same_time_is_one_restart(supervisor: Supervisor) -> None:
    """Eight simultaneous requests with one key restart once, and all of them learn the result."""
    restarts: list[int] = []
    askers = [
        threading.Thread(target=lambda: restarts.append(supervisor.restart(TOKENGUARD, "a-1").restarts))
        for _ in range(8)
    ]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join()
    assert restarts == [1] * 8
    assert supervisor.state(TOKENGUARD).restarts == 1


def test_a_key_belongs_to_its_service(supervisor: Supervisor) -> None:
    """The same key for another service restarts that one."""
    supervisor.restart(TOKENGUARD, "a-1")
    assert supervisor.restart("guardian-one", "a-1").restarts == 1


def test_an_exited_service_stays_down_until_it_is_restarted(supervisor: Supervisor) -> None:
    """The supervisor heals nothing by itself: what comes back was brought back."""
    break_service(supervisor, "exit")
    process = supervisor.state(TOKENGUARD)
    while process.running:
        process = supervisor.state(TOKENGUARD)
    assert (process.restarts, answers(supervisor)) == (0, False)
    assert supervisor.restart(TOKENGUARD).running
    assert answers(supervisor)


def test_a_hung_service_can_be_restarted(supervisor: Supervisor) -> None:
    """A process that answers nobody still ends, and its port is free for the next one."""
    break_service(supervisor, "hang")
    assert not answers(supervisor)
    supervisor.restart(TOKENGUARD)
    assert answers(supervisor)


def test_all_services_are_listed(http: httpx.Client) -> None:
    """GET /services shows every service with its port, whether it runs, and its restarts."""
    services = http.get("/services").json()["services"]
    assert [service["name"] for service in services] == [TOKENGUARD, "guardian-one"]
    assert all(service["running"] and service["restarts"] == 0 for service in services)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/services/nobody"),
        ("POST", "/services/nobody/restart"),
        ("POST", "/services/tokenguard"),
        ("GET", "/services/tokenguard/restart"),
        ("GET", "/"),
    ],
)
def test_what_does_not_exist_is_not_found(http: httpx.Client, method: str, path: str) -> None:
    """404, and nothing is restarted."""
    assert http.request(method, path).status_code == 404
    assert http.get(f"/services/{TOKENGUARD}").json()["restarts"] == 0


def test_stop_ends_every_process(tmp_path: Path) -> None:
    """After the `with` block none runs, the restarted and the hung one included, and none can be started."""
    with Supervisor(GUARDS[:3], tmp_path) as supervisor:
        supervisor.restart("trustguard")
        break_service(supervisor, "hang")
    assert not any(supervisor.state(name).running for name in supervisor.names())
    with pytest.raises(RuntimeError):
        supervisor.restart(TOKENGUARD)


def test_a_replacement_answers_before_the_old_process_ends(tmp_path: Path) -> None:
    """Asked all the time, a service that is being replaced refuses nobody and is another process after."""
    shop_service.prepare(tmp_path / "shop")
    service = SampleService("cart", "guardian", "/health", module="shf_demo.shop_service")
    arguments = {"cart": ["--directory", str(tmp_path / "shop")]}
    with Supervisor([service], tmp_path, lambda _: arguments) as running:
        before = running.state("cart")
        over, refused = threading.Event(), []

        def ask() -> None:
            while not over.is_set():
                refused.extend([1] * (not is_healthy(before.port, "/health")))

        asking = threading.Thread(target=ask)
        asking.start()
        after = running.replace("cart")
        over.set()
        asking.join()
    assert (after.restarts, after.port, after.pid != before.pid) == (1, before.port, True)
    # In the process that ended one request may have been under way and one waiting to be accepted. Were there
    # a gap, every request of the half second that a process takes to start would be refused.
    assert len(refused) <= 3
