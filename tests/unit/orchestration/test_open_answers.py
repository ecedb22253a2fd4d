"""An order over HTTP whose answer leaves it open, while the target shows nothing of it yet.

The target is a real HTTP server that counts its orders, and does late what it was told, or never.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response
from werkzeug.http import http_date

from plugin_packages import write_package
from self_healing_fabric.incidents.lifecycle import State
from shf_queries.catalogue import CONFIG_DRIFT

LONGEST = 35.0  # seconds: to begin, and for an order
RUNNING, WANTED = b"pool: 5\n", b"pool: 20\n"
BAD_GATEWAY = "<html><head><title>502 Bad Gateway</title></head><body>nginx</body></html>"
STRATEGIES = ["restart", "scale", "sync"]


@dataclass
class Supervisor:
    """Restarts, scales and configures `cart`; what it answers is told by `answers`, the last one for good."""

    answers: list[int] = field(default_factory=lambda: [200])
    orders: list[str] = field(default_factory=list)  # as they came, by their keys
    obeys: list[int] = field(default_factory=lambda: [200, 204])  # does what it answers so, at once
    state: dict[str, Any] = field(default_factory=lambda: {"started_at": 1, "replicas": 2})
    configuration: bytes = RUNNING
    retry_after: str | None = None  # in answers that refuse
    pending: Callable[[], None] = lambda: None
    on_done: Callable[[], None] = lambda: None

    def order(self, request: Request) -> Response:
        """Take an order."""
        body, path = request.get_data(), request.path
        self.orders.append(request.headers["Idempotency-Key"])
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]

        def do() -> None:
            if path == "/config":
                self.configuration = body
            elif path == "/replicas":
                self.state["replicas"] = json.loads(body)["replicas"]
            else:
                self.state["started_at"] += 1
            self.on_done()

        self.pending = do
        if answer in self.obeys:
            do()
        named = {"Retry-After": self.retry_after} if self.retry_after and answer >= 400 else {}
        return Response(BAD_GATEWAY, answer, named, content_type="text/html")

    def tell(self, request: Request) -> Response:
        """Tell of the state."""
        if request.path == "/config":
            return Response(self.configuration, headers={"ETag": f'"{len(self.configuration)}"'})
        return Response(json.dumps(self.state))


@pytest.fixture
def supervisor(httpserver: HTTPServer) -> Supervisor:
    """One that does everything at once."""
    supervisor = Supervisor()
    for path, method in (("/restart", "POST"), ("/replicas", "PUT"), ("/config", "PUT")):
        httpserver.expect_request(path, method=method).respond_with_handler(supervisor.order)
    for path in ("/state", "/replicas", "/config"):
        httpserver.expect_request(path, method="GET").respond_with_handler(supervisor.tell)
    return supervisor


@pytest.fixture
def failing(
    make_world: Callable[..., Any], supervisor: Supervisor, httpserver: HTTPServer, tmp_path: Path
) -> Callable[..., Any]:
    """A world whose `cart` fails until the supervisor has done what the strategy orders."""

    def make(*plan: str) -> Any:
        strategy = plan[0]
        (tmp_path / "wanted.yaml").write_bytes(WANTED)
        plans = {"service_failure": [*plan], "cluster_drift": [*plan]}
        world = make_world(plans=plans)
        world.close()
        urls = {"restart": "/restart", "started_at": "/state", "scale": "/replicas"}
        desired, live = {"file": str(tmp_path / "wanted.yaml")}, {"http": httpserver.url_for("/config")}
        world.values["services"]["cart"]["recovery"] = {
            "http": {name: httpserver.url_for(path) for name, path in urls.items()},
            "scale": {"max": 5, "calm": 10_000},
            "configuration": {"desired": desired, "live": {**live, "timeout": 30}},
        }
        world.open()
        if strategy == "sync":
            world.set(CONFIG_DRIFT, 1.0)
            supervisor.on_done = lambda: world.set(CONFIG_DRIFT, 0.0)
            world.receive(world.alert(signal="config_drift"))
        else:
            world.silent()
            supervisor.on_done = world.healthy
            world.receive(world.alert())
        return world

    return make


def statuses(world: Any) -> list[str]:
    """How the actions of the only incident ended."""
    return [row.status for row in world.actions()]


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("answer", [202, 500, 502, 504])
def test_what_happens_after_its_answer_is_found(
    failing: Callable[[str], Any], supervisor: Supervisor, strategy: str, answer: int
) -> None:
    """Nobody is called for what the target shows a moment later, and nothing is ordered a second time."""
    supervisor.answers = [answer]
    world = failing(strategy)
    world.run(seconds=10)
    assert world.calls == []
    supervisor.pending()
    world.run(seconds=90)
    assert len(supervisor.orders) == 1
    assert (statuses(world), world.incident().outcome, world.calls) == (["succeeded"], "healed", [])
    assert "interrupted" not in "".join(world.story())


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("answer", [302, 500, 502, 504])
def test_what_the_target_never_shows_goes_to_people_and_is_not_ordered_again(
    failing: Callable[[str], Any], supervisor: Supervisor, strategy: str, answer: int
) -> None:
    """After the longest time: who takes longer would do it twice. Who is called reads what was answered."""
    supervisor.answers = [answer]
    world = failing(strategy)
    world.run(seconds=LONGEST - 5)
    assert (world.calls, statuses(world)) == ([], ["started"])
    assert "is asked in 35 s what became of it" in world.incident().waiting_for
    world.run(seconds=15)
    (call,) = world.calls
    assert f"whether {strategy} happened cannot be learnt: http://localhost" in call.reason
    assert f"answered {answer}; " in call.reason
    assert (len(supervisor.orders), statuses(world)) == (1, ["indeterminate"])
    assert "interrupted" not in "".join(world.story())
    supervisor.pending()
    world.run(seconds=300)
    assert len(supervisor.orders) == 1


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_who_takes_no_orders_just_then_gets_it_once_more(
    failing: Callable[[str], Any], supervisor: Supervisor, strategy: str
) -> None:
    """503: nobody was behind the proxy, and the target shows nothing of it: done once, nobody is called."""
    supervisor.answers = [503, 200]
    world = failing(strategy)
    world.run(seconds=240)
    assert (len(supervisor.orders), len(set(supervisor.orders))) == (2, 2)
    assert (statuses(world), world.incident().outcome) == (["failed", "succeeded"], "healed")
    assert world.calls == []


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("answer", [429, 503])
@pytest.mark.parametrize("form", ["seconds", "date"])
def test_who_wants_to_be_left_alone_for_a_while_is(
    failing: Callable[..., Any], supervisor: Supervisor, strategy: str, answer: int, form: str
) -> None:
    """`Retry-After`: no other strategy is begun meanwhile, and then the same is done, once."""
    at = http_date(time.time() + 50)
    supervisor.answers, supervisor.retry_after = [answer, 200], "50" if form == "seconds" else at
    world = failing(strategy, "restart" if strategy == "scale" else "scale")
    world.run(seconds=45)
    assert (len(supervisor.orders), world.calls) == (1, [])
    world.run(seconds=75)
    assert (len(supervisor.orders), statuses(world)) == (2, ["failed", "succeeded"])
    assert {row.strategy for row in world.actions()} == {strategy}
    assert (world.incident().outcome, world.calls) == ("healed", [])


@pytest.mark.parametrize("named", [None, "soon", "1", "-1", "nan", "99999999", "Fri, 99 Foo 2026"])
def test_who_has_too_much_to_do_is_told_again_in_a_moment(
    failing: Callable[..., Any], supervisor: Supervisor, named: str | None
) -> None:
    """429, whatever time it names: not at once, and not in an hour."""
    supervisor.answers, supervisor.retry_after = [429, 200], named
    world = failing("restart")
    world.run(seconds=9)
    assert len(supervisor.orders) == 1
    world.run(seconds=60)
    assert (len(supervisor.orders), world.incident().outcome) == (2, "healed")


@pytest.mark.parametrize("answer", [429, 503])
def test_what_was_never_done_uses_no_budget_up(
    failing: Callable[..., Any], supervisor: Supervisor, answer: int
) -> None:
    """Three restarts were refused, and nothing was disturbed: the next strategy has all its actions left."""
    supervisor.answers = [answer] * 3 + [200]
    world = failing("restart", "scale")
    world.run(seconds=200)
    assert [(row.strategy, row.status) for row in world.actions()] == [
        *[("restart", "failed")] * 3,
        ("scale", "succeeded"),
    ]
    assert [row.started_at is None for row in world.actions()] == [True, True, True, False]
    assert (len(supervisor.orders), supervisor.state) == (4, {"started_at": 1, "replicas": 3})
    assert (world.incident().outcome, world.calls) == ("healed", [])


def test_what_was_done_although_the_answer_was_503_is_not_done_again(
    failing: Callable[[str], Any], supervisor: Supervisor
) -> None:
    """A proxy says so, too, when the connection behind it broke."""
    supervisor.answers = [503]
    world = failing("restart")
    world.run(seconds=30)
    supervisor.pending()
    world.run(seconds=120)
    assert (len(supervisor.orders), statuses(world)) == (1, ["succeeded"])
    assert (world.incident().outcome, world.calls) == ("healed", [])


def test_who_never_takes_orders_is_given_up(failing: Callable[[str], Any], supervisor: Supervisor) -> None:
    """Three times; then people hear that it certainly did not happen."""
    supervisor.answers = [503]
    world = failing("restart")
    world.run(seconds=300)
    assert (len(supervisor.orders), statuses(world)) == (3, ["failed"] * 3)
    assert "restart failed: " in world.calls[0].reason
    assert "/restart answered 503; the target still says it started at 1" in world.calls[0].reason
    assert world.incident().state is State.ESCALATED


def test_a_crash_while_the_answer_is_open_changes_nothing(
    failing: Callable[[str], Any], supervisor: Supervisor
) -> None:
    """The next process knows that it may not be ordered again, and why it is open."""
    supervisor.answers = [500]
    world = failing("restart")
    world.run(seconds=10)
    world.crash()
    world.run(seconds=60)
    (call,) = world.calls
    assert "/restart answered 500; the target still says it started at 1" in call.reason
    assert (len(supervisor.orders), statuses(world)) == (1, ["indeterminate"])


LATE = """
    from self_healing_fabric.recovery.effects import Effect
    from self_healing_fabric.recovery.outcomes import Outcome, Status, Untold

    done = []

    class Order(Effect):
        platform, target, longest_effect = "test", "test:cart", 5.0

        def snapshot(self):
            return {"why": "too hot", "unchanged": 5}

        def perform(self, *, key, attempt, before, permit):
            done.append(key)
            return Untold(Status.INDETERMINATE, "it says nothing", unchanged=Status.INDETERMINATE)

        def observe(self, before):
            assert (before["why"], before["unchanged"]) == ("too hot", 5)
            return Outcome(Status.FAILED, "nothing is to be seen of it")

    class Late:
        disruptive = True

        def __init__(self, settings, options): ...

        def on(self, service):
            return Order()
"""


def test_what_a_plugin_calls_its_own_facts_changes_nothing(
    make_world: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It said that its order must not be given twice; that its snapshot has words of ours is no matter."""
    monkeypatch.syspath_prepend(str(tmp_path / "packages"))
    write_package(tmp_path / "packages", LATE, {"strategies": {"late": "Late"}})
    plans = {name: ["late"] for name in ("service_failure", "degradation", "transient")}
    try:
        world = make_world(plans=plans)
        world.silent()
        world.receive(world.alert())
        world.run(seconds=120)
        done = sys.modules["shf_acme"].done
    finally:
        sys.modules.pop("shf_acme", None)
    assert len(done) == 1
    assert [row.status for row in world.actions()] == ["indeterminate"]
    assert world.incident().state == State.ESCALATED
