"""Several replicas on one PostgreSQL: they share the work, and take over from the dead and the frozen.

The frozen do nothing stale when they go on. All processes are real, and the effects are counted at the
target.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pytest_httpserver import HTTPServer
from replicas import Replica, Replicas, wait_for
from surroundings import SlowToAccept, Surroundings
from werkzeug import Request, Response

from cuttable_proxy import CuttableProxy
from postgresql_server import PostgresqlServer, temporary_postgresql

pytestmark = pytest.mark.e2e

TAKEOVER_DEADLINE = 30.0  # seconds; a lease is 6 s
SHORT = {"lease": 1.5, "renewal": 0.4}  # where a shorter pause proves the same


def names(count: int) -> list[str]:
    """Names of services."""
    return [f"service-{number:03d}" for number in range(count)]


@pytest.fixture
def url(postgresql: PostgresqlServer, request: pytest.FixtureRequest) -> str:
    """A database of the test's own."""
    return postgresql.create_database(f"replicas_{abs(hash(request.node.name)) % 10**9}")


def owner(replica: Replica) -> str:
    """How the leases of a replica begin with whose they are; for LIKE."""
    return f"%/{replica.pid}/%"


def leased(fabric: Replicas, replica: Replica) -> dict[str, int]:
    """The incidents that a replica works on, and their epochs."""
    rows = fabric.rows("SELECT id, epoch FROM incidents WHERE lease_owner LIKE :owner", owner=owner(replica))
    return {row.id: row.epoch for row in rows}


def taken_over(fabric: Replicas, before: dict[str, int]) -> bool:
    """Whether all of them were claimed by somebody else since."""
    now = {row.id: row.epoch for row in fabric.rows("SELECT id, epoch FROM incidents")}
    return all(now[incident] > epoch for incident, epoch in before.items())


def test_replicas_share_the_work(url: str, tmp_path: Path) -> None:
    """Three replicas and alerts that come twice: each effect once, and every replica has done some."""
    with Surroundings(names(45), takes=0.4) as world, Replicas(tmp_path, world, url, count=3) as fabric:
        fabric.notify()
        fabric.wait_healed()
        fabric.assert_each_once()
        done = [replica.actions()["succeeded"] for replica in fabric.all]
        assert sum(done) == 45
        assert min(done) > 0


def test_killed_replica_is_taken_over(
    url: str, tmp_path: Path, record_property: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """SIGKILL amid its effects: the others take its incidents over; nothing is lost or done a second time."""
    with Surroundings(names(40), takes=1.0) as world, Replicas(tmp_path, world, url, count=3) as fabric:
        fabric.notify()
        victim = fabric.all[0]
        before = wait_for("effects under way", lambda: busy(fabric, victim, 3))
        victim.kill()
        killed_at = time.monotonic()
        wait_for("takeover", lambda: taken_over(fabric, before), TAKEOVER_DEADLINE)
        seconds = time.monotonic() - killed_at
        record_property("takeover_seconds", seconds)
        with capsys.disabled():
            print(f" [{len(before)} incidents taken over {seconds:.1f} s after the kill] ", end="")
        fabric.wait_healed()
        fabric.assert_each_once()


def busy(fabric: Replicas, replica: Replica, least: int) -> dict[str, int] | None:
    """What a replica holds, once effects of at least so many are under way."""
    rows = fabric.rows(
        "SELECT i.id, i.epoch FROM incidents i JOIN actions a ON a.incident_id = i.id "
        "WHERE i.lease_owner LIKE :owner AND a.status = 'started'",
        owner=owner(replica),
    )
    return leased(fabric, replica) if len(rows) >= least else None


@pytest.mark.parametrize("moment", ["effects under way", "work claimed", "some healed"])
def test_frozen_replica_does_nothing_stale(url: str, tmp_path: Path, moment: str) -> None:
    """SIGSTOP amid work until the others have finished all; continued, it changes nothing at the target."""
    conditions = {
        "effects under way": lambda: busy(fabric, frozen, 2),
        "work claimed": lambda: leased(fabric, frozen),
        "some healed": lambda: len(world.effects) > 8 and leased(fabric, frozen),
    }
    changes = [SHORT] * 2
    with (
        Surroundings(names(24), takes=0.5) as world,
        Replicas(tmp_path, world, url, changes=changes, timeout=2.0) as fabric,
    ):
        frozen = fabric.all[0]
        fabric.notify()
        wait_for(moment, conditions[moment])
        frozen.freeze()
        before = leased(fabric, frozen)
        wait_for("takeover", lambda: taken_over(fabric, before), TAKEOVER_DEADLINE)
        fabric.wait_healed()
        fabric.assert_each_once()
        frozen.thaw()
        wait_for("back at work", lambda: frozen.is_ready(), TAKEOVER_DEADLINE)
        time.sleep(2.0)  # what it had in hand would happen now
        fabric.assert_each_once()


def freeze_before_the_effect(
    url: str, tmp_path: Path, pause: float, changes: dict[str, Any], timeout: float = 2.0
) -> None:
    """Freeze a replica between the record of the beginning and the effect; then let it go on."""
    flag = tmp_path / "freeze"
    flag.touch()
    with (
        Surroundings(names(1)) as world,
        Replicas(
            tmp_path, world, url, changes=[{**changes, "freeze": str(flag)}, changes], timeout=timeout
        ) as fabric,
    ):
        frozen, other = fabric.all
        other.freeze()  # so that the first one begins
        body = world.notification(*world.services)
        assert frozen.http.post("/api/v1/alerts", json=body).status_code == 202
        frozen.wait_frozen()
        frozen_at = time.monotonic()
        assert [row.status for row in fabric.rows("SELECT status FROM actions")] == ["started"]
        assert world.orders == []
        other.thaw()
        fabric.wait_healed()
        fabric.assert_each_once()
        time.sleep(max(0.0, pause - (time.monotonic() - frozen_at)))
        frozen.thaw()
        overtaken = wait_for(
            "its commit refused", lambda: [e for e in frozen.events() if e["event"] == "overtaken"]
        )
        assert overtaken
        assert len(world.orders) == 1  # not even an order came
        fabric.assert_each_once()
        assert frozen.actions()["succeeded"] == 0


def test_frozen_between_its_record_and_the_effect(url: str, tmp_path: Path) -> None:
    """The worst moment: recorded as begun, nothing sent yet. Continued, it sends and commits nothing."""
    freeze_before_the_effect(url, tmp_path, 0.0, SHORT)


@pytest.mark.slow
def test_frozen_for_a_minute(url: str, tmp_path: Path) -> None:
    """The same with the shipped durations, for one minute."""
    freeze_before_the_effect(url, tmp_path, 60.0, {}, timeout=30.0)


def test_frozen_between_its_evidence_and_its_record(url: str, tmp_path: Path) -> None:
    """It froze while it read the target, which people repaired meanwhile: continued, it looks anew."""
    with (
        Surroundings(names(1)) as world,
        Replicas(tmp_path, world, url, count=1, changes=[SHORT]) as fabric,
    ):
        (frozen,) = fabric.all
        (service,) = world.services
        world.on_read = frozen.freeze
        assert frozen.http.post("/api/v1/alerts", json=world.notification(service)).status_code == 202
        frozen.wait_frozen()
        world.mend(service)
        time.sleep(2 * SHORT["lease"])  # by then anybody could have taken it over
        frozen.thaw()
        fabric.wait_healed()
        assert world.orders == []


def test_frozen_while_the_target_is_slow_to_accept(url: str, tmp_path: Path) -> None:
    """Frozen while the kernel still connects: the connection is made meanwhile, and no request follows."""
    with Surroundings(names(1)) as world, SlowToAccept(world.url) as slow:
        service = world.services[0]
        settings = slow.in_front_of(world.configuration(service, timeout=5.0))
        with Replicas(tmp_path, world, url, changes=[SHORT] * 2, services={service: settings}) as fabric:
            frozen, other = fabric.all
            other.freeze()
            body = world.notification(service)
            assert frozen.http.post("/api/v1/alerts", json=body).status_code == 202
            wait_for("begun", lambda: busy(fabric, frozen, 1))
            frozen.freeze()
            slow.open()
            other.thaw()
            fabric.wait_healed()
            fabric.assert_each_once()
            frozen.thaw()
            wait_for("commit refused", lambda: [e for e in frozen.events() if e["event"] == "overtaken"])
            assert len(world.orders) == 1
            fabric.assert_each_once()


def test_frozen_between_the_claim_of_a_call_and_its_sending(
    url: str, tmp_path: Path, httpserver: HTTPServer
) -> None:
    """Another replica has called meanwhile: continued, the first one calls nobody a second time."""
    heard: list[str] = []

    def hear(request: Request) -> Response:
        heard.append(request.headers["Idempotency-Key"])
        return Response(status=204)

    httpserver.expect_request("/ana").respond_with_handler(hear)
    flag, secret = tmp_path / "freeze", tmp_path / "secret"
    flag.touch()
    secret.write_text("0123456789abcdef")
    levels = [{"name": f"l{n}", "deadline": 1 if n == 0 else 300} for n in range(5)]
    levels[1]["call"] = ["ana"]
    channels = {"ana": {"guardian": {"url": httpserver.url_for("/ana"), "secret_file": str(secret)}}}
    changes = [{**SHORT, "freeze_call": str(flag)}, SHORT]
    with (
        Surroundings(names(1)) as world,
        Replicas(
            tmp_path, world, url, changes=changes, mode="paused",
            settings={"escalation": {"levels": levels, "channels": channels}},
        ) as fabric,
    ):  # fmt: skip
        frozen, other = fabric.all
        other.freeze()  # so that the first one claims
        body = world.notification(*world.services)
        assert frozen.http.post("/api/v1/alerts", json=body).status_code == 202
        frozen.wait_frozen()
        assert heard == []
        other.thaw()
        wait_for("called by the other", lambda: heard)
        sent = "SELECT id FROM calls WHERE channel = 'ana' AND sent_at IS NOT NULL"
        wait_for("written down", lambda: fabric.rows(sent))
        frozen.thaw()
        wait_for("back at work", frozen.is_ready, TAKEOVER_DEADLINE)
        time.sleep(2.0)  # what it had in hand would be sent now
        assert len(heard) == 1


def test_frozen_while_it_tells_of_events(url: str, tmp_path: Path, httpserver: HTTPServer) -> None:
    """Another replica tells on. Continued, the first one tells nothing that comes before what was told."""
    heard: list[int] = []
    frozen: list[Replica] = []

    def hear(request: Request) -> Response:
        heard.append(int(request.get_json(force=True)["id"]))
        if not frozen:
            (leader,) = leaders(fabric)
            leader.freeze()
            frozen.append(leader)
        return Response(status=202)

    httpserver.expect_request("/events").respond_with_handler(hear)
    with (
        Surroundings(names(1)) as world,
        Replicas(
            tmp_path,
            world,
            url,
            changes=[SHORT] * 2,
            settings={"events": {"url": httpserver.url_for("/events")}},
        ) as fabric,
    ):
        wait_for("a leader", lambda: leaders(fabric))
        fabric.all[1].http.post("/api/v1/alerts", json=world.notification(*world.services))
        wait_for("frozen", lambda: frozen)
        fabric.wait_healed()
        wait_for("all told by the other", lambda: len(heard) > 6)
        time.sleep(2.0)
        told = len(heard)
        frozen[0].thaw()
        wait_for("back at work", frozen[0].is_ready, TAKEOVER_DEADLINE)
        time.sleep(2.0)  # what it had in hand would be told now
        assert heard[told:] == []


@pytest.fixture
def own_postgresql() -> Iterator[PostgresqlServer]:
    """A server that the test may stop."""
    with temporary_postgresql() as server:
        yield server


def test_database_restarts_and_network_cuts(
    postgresql: PostgresqlServer, own_postgresql: PostgresqlServer, tmp_path: Path
) -> None:
    """The database crashes, the network resets, then swallows all: nothing lost, nothing twice."""
    url = own_postgresql.create_database("cut")
    with (
        CuttableProxy(own_postgresql.port) as proxy,
        Surroundings(names(60), takes=0.5) as world,
        Replicas(tmp_path, world, url, urls=[proxy.through(url), url], timeout=4.0) as fabric,
    ):
        fabric.notify(*world.services[:20])
        wait_for("first effects", lambda: len(world.orders) > 4)
        own_postgresql.restart("immediate")
        wait_for("ready again", lambda: all(replica.is_ready() for replica in fabric.all))
        fabric.notify(*world.services[20:40])
        wait_for("more effects", lambda: len(world.orders) > 26)
        proxy.refuse()
        time.sleep(1.5)
        proxy.forward()
        wait_for("ready again", lambda: all(replica.is_ready() for replica in fabric.all))
        fabric.notify(*world.services[40:])
        wait_for("more effects", lambda: len(world.orders) > 46)
        proxy.blackhole()
        time.sleep(12.0)  # longer than a lease, and than any deadline of a statement
        proxy.forward()
        fabric.wait_healed()
        fabric.assert_each_once()


def test_kill_switch_on_one_replica_stops_all(url: str, tmp_path: Path) -> None:
    """Once PUT mode=paused is answered, no effect begins later than 1 s after, on any replica."""
    with Surroundings(names(60), takes=0.3) as world, Replicas(tmp_path, world, url, count=3) as fabric:
        for replica, orders in ((fabric.all[0], 5), (fabric.all[2], 25)):
            fabric.notify()
            wait_for("effects", lambda least=orders: len(world.orders) > least)
            answer = replica.http.put("/api/v1/mode", json={"mode": "paused", "by": "ana"})
            paused_at = time.monotonic()
            assert answer.status_code == 200
            time.sleep(4.0)
            late = [order for order in list(world.orders) if order.ordered_at > paused_at + 1.0]
            assert late == []
            assert len(world.orders) < len(world.services)  # there was work left to do
            answer = fabric.all[1].http.put("/api/v1/mode", json={"mode": "automatic", "by": "ana"})
            assert answer.status_code == 200
        fabric.wait_healed()
        fabric.assert_each_once()


def test_kill_switch_reaches_what_has_begun_and_not_been_sent(url: str, tmp_path: Path) -> None:
    """Paused while the kernel still connects to the target: it is connected, and no request follows."""
    with Surroundings(names(1)) as world, SlowToAccept(world.url) as slow:
        service = world.services[0]
        settings = slow.in_front_of(world.configuration(service, timeout=8.0))
        with Replicas(tmp_path, world, url, services={service: settings}) as fabric:
            fabric.notify()
            wait_for("begun", lambda: fabric.rows("SELECT id FROM actions WHERE status = 'started'"))
            answer = fabric.all[1].http.put("/api/v1/mode", json={"mode": "paused", "by": "ana"})
            assert answer.status_code == 200
            time.sleep(1.2)
            slow.open()
            wait_for("refused", lambda: fabric.rows("SELECT id FROM actions WHERE status <> 'started'"))
            assert world.orders == []
            answer = fabric.all[0].http.put("/api/v1/mode", json={"mode": "automatic", "by": "ana"})
            assert answer.status_code == 200
            fabric.wait_healed()
            fabric.assert_each_once()


def leaders(fabric: Replicas) -> list[Replica]:
    """Who says to be the leader, of those that answer."""
    alive = [each for each in fabric.all if each.process.poll() is None and not each.is_frozen()]
    return [replica for replica in alive if replica.status()["leader"]]


def test_one_leader_which_moves(url: str, tmp_path: Path) -> None:
    """One leads; when it is frozen or killed another one does, and the first knows it when it goes on."""
    with Surroundings(names(1)) as world, Replicas(tmp_path, world, url, count=3) as fabric:
        (first,) = wait_for("one leader", lambda: leaders(fabric))
        first.freeze()
        (second,) = wait_for("another leader", lambda: leaders(fabric), TAKEOVER_DEADLINE)
        first.thaw()
        wait_for("ready again", first.is_ready)
        assert leaders(fabric) == [second]
        second.kill()
        (third,) = wait_for("a third leader", lambda: leaders(fabric), TAKEOVER_DEADLINE)
        assert third is not second
        (row,) = fabric.rows("SELECT owner FROM leases WHERE name = 'reconciliation'")
        assert f"/{third.pid}/" in row.owner
