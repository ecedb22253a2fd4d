"""Faults on the way to the API server: what is certain is said, the rest read again, nothing sent twice."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deadline import within_deadline
from dripping_server import IN_BODY, IN_HEADERS, dripping_server
from missing_extra import take_away
from scripted_api_server import AFTER, BEFORE, HANG, RESET, ScriptedApiServer
from self_healing_fabric import servers_asked
from self_healing_fabric.recovery.effects import DIFF, Effect, NotApplicable, TargetAway, TargetUnreadable
from self_healing_fabric.recovery.outcomes import Outcome, Status
from self_healing_fabric.recovery.platforms import platform_of
from self_healing_fabric.settings import Settings

STRATEGIES = ("restart", "scale", "evict")
CHANGES = {"scale": ["- replicas: 3", "+ replicas: 4"], "evict": ["- pod c"]}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ScriptedApiServer]:
    """One Deployment with a bad pod among good ones."""
    with ScriptedApiServer(tmp_path) as server:
        yield server


def effect_of(server: ScriptedApiServer, strategy: str, timeout: float = 2.0) -> Effect:
    """The effect on its Deployment."""
    recovery = {"kubernetes": {"namespace": "shop", "name": "cart"}, "scale": {"max": 5}}
    settings = Settings.model_validate(
        {
            "kubernetes": {"kubeconfig": server.kubeconfig, "timeout": timeout},
            "services": {"cart": {"recovery": recovery}},
        }
    )
    platform = platform_of("cart", settings)
    assert platform is not None
    return platform.effect(strategy)


def do(effect: Effect, before: Any) -> Outcome:
    """Perform it once."""
    told = json.loads(json.dumps(before))
    return effect.perform(key="inc/x", attempt=1, before=told, permit=lambda: True)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_without_a_fault_it_is_done_and_told(server: ScriptedApiServer, strategy: str) -> None:
    """The order once, its event once."""
    effect = effect_of(server, strategy)
    assert do(effect, effect.snapshot()).status is Status.SUCCEEDED
    assert (len(server.orders), len(server.done), len(server.events)) == (1, 1, 1)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_people_are_shown_what_would_change(server: ScriptedApiServer, strategy: str) -> None:
    """Two looks at the same show the same: whoever approved it is not asked again."""
    shown = [effect_of(server, strategy).snapshot().get(DIFF) for _ in range(2)]
    assert shown == [CHANGES.get(strategy)] * 2


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("status", [400, 403, 404, 422, 429])
def test_a_refusal_is_a_failure_for_certain(server: ScriptedApiServer, strategy: str, status: int) -> None:
    """4xx: it was not carried out; sent once, told to nobody."""
    effect = effect_of(server, strategy)
    before = effect.snapshot()
    server.fault = (BEFORE, status)
    outcome = do(effect, before)
    assert outcome.status is Status.FAILED
    assert str(status) in outcome.detail
    assert (len(server.orders), server.done, server.events) == (1, [], [])
    assert effect.observe(before).status is Status.FAILED


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_conflicts_are_stepped_around_for_a_while(server: ScriptedApiServer, strategy: str) -> None:
    """409 means that it was not carried out, so it may be sent again."""
    effect = effect_of(server, strategy)
    before = effect.snapshot()
    server.fault = (BEFORE, 409)
    outcome = do(effect, before)
    assert (outcome.status, outcome.retry_in) == (Status.FAILED, 2.0)
    assert (len(server.orders), server.done) == (5, [])


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("fault", [500, 503, 504, 302, RESET, HANG])
def test_an_answer_lost_after_the_write_is_found_at_the_target(
    server: ScriptedApiServer, strategy: str, fault: int | str
) -> None:
    """It happened, once, whatever the answer was."""
    effect = effect_of(server, strategy, timeout=0.5)
    before = effect.snapshot()
    server.fault = (AFTER, fault)
    outcome = do(effect, before)
    assert outcome.status is Status.SUCCEEDED, outcome.detail
    assert (len(server.orders), len(server.done)) == (1, 1)
    assert effect.observe(before).status is Status.SUCCEEDED


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("fault", [500, 503, RESET, HANG])
def test_an_order_that_may_be_on_its_way_is_not_called_failed(
    server: ScriptedApiServer, strategy: str, fault: int | str
) -> None:
    """Nothing was written yet, which proves nothing; once the time of a request is over, it does."""
    effect = effect_of(server, strategy, timeout=0.5)
    before = effect.snapshot()
    server.fault = (BEFORE, fault)
    assert do(effect, before).status is Status.INDETERMINATE
    assert (len(server.orders), server.done, server.events) == (1, [], [])
    assert effect.observe(before).status is Status.FAILED


@pytest.mark.parametrize("strategy", ["restart", "scale"])
def test_an_order_that_can_only_be_refused_any_more_is_a_failure(
    server: ScriptedApiServer, strategy: str
) -> None:
    """Somebody has written to the object since: the resourceVersion of the order is spent."""
    effect = effect_of(server, strategy)
    before = effect.snapshot()
    server.fault = (BEFORE, RESET)
    server.on_order = server.touch
    outcome = do(effect, before)
    assert outcome.status is Status.FAILED
    assert "can only be refused now" in outcome.detail


def test_an_eviction_stays_open_however_often_the_pod_is_written_to(server: ScriptedApiServer) -> None:
    """It carries the pod's uid alone: an order that is on its way can still be carried out."""
    effect = effect_of(server, "evict")
    before = effect.snapshot()
    server.fault = (BEFORE, RESET)
    server.on_order = server.touch
    assert do(effect, before).status is Status.INDETERMINATE


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_server_that_is_away_before_the_order_fails_it(server: ScriptedApiServer, strategy: str) -> None:
    """Nothing was sent, so nothing happened."""
    effect = effect_of(server, strategy)
    before = effect.snapshot()
    server.go_away()
    outcome = do(effect, before)
    assert outcome.status is Status.FAILED
    assert "nothing was ordered" in outcome.detail
    with pytest.raises(TargetUnreadable, match="cannot be asked"):
        effect.snapshot()


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_server_that_is_away_after_the_order_leaves_it_open(
    server: ScriptedApiServer, strategy: str
) -> None:
    """The order was sent, and there is nobody to ask."""
    effect = effect_of(server, strategy, timeout=0.5)
    before = effect.snapshot()
    server.fault = (BEFORE, RESET)
    monkey = server.get
    server.on_order = lambda: setattr(server, "get", lambda _: (503, {"message": "away"}))
    assert do(effect, before).status is Status.INDETERMINATE
    assert effect.observe(before).status is Status.INDETERMINATE
    server.get = monkey  # type: ignore[method-assign]


@pytest.mark.parametrize("answer", [["no", "object"], {"items": []}, {"metadata": {}, "spec": 1}])
def test_an_answer_of_the_wrong_shape_is_none(server: ScriptedApiServer, answer: Any) -> None:
    """A proxy that answers 200 with something else is not believed."""
    server.get = lambda _: (200, answer)  # type: ignore[method-assign]
    with pytest.raises(TargetUnreadable, match="does not answer with"):
        effect_of(server, "restart").snapshot()


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_an_answer_of_the_wrong_shape_after_the_order_leaves_it_open(
    server: ScriptedApiServer, strategy: str
) -> None:
    """Something between us answers 200 with a page of its own, when the order is out."""
    effect = effect_of(server, strategy)
    before = effect.snapshot()
    server.fault = (BEFORE, RESET)
    server.on_order = lambda: setattr(server, "get", lambda _: (200, {"hello": "world"}))
    assert do(effect, before).status is Status.INDETERMINATE


def test_an_event_that_cannot_be_written_is_ignored(
    server: ScriptedApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pods are restarted all the same."""
    effect = effect_of(server, "restart")
    before = effect.snapshot()
    monkeypatch.setattr("scripted_api_server.EVENTS", "/nowhere")
    server.on_done = lambda: setattr(server, "fault", (BEFORE, 500))
    assert do(effect, before).status is Status.SUCCEEDED
    assert server.events == []


def test_without_a_permit_nothing_is_sent(server: ScriptedApiServer) -> None:
    """Asked when only the order is left: everything was read by then."""
    effect = effect_of(server, "restart")
    before = effect.snapshot()
    asked = []

    def permit() -> bool:
        asked.append(len(server.orders))
        return False

    outcome = effect.perform(key="k", attempt=1, before=before, permit=permit)
    assert (outcome.status, outcome.retry_in) == (Status.FAILED, 0.0)
    assert (asked, server.orders) == ([0], [])


def test_a_slow_server_is_asked_once(server: ScriptedApiServer) -> None:
    """The client would ask four times, and each question has its own timeout."""
    asked: list[str] = []

    def slow(path: str) -> tuple[int, Any]:
        asked.append(path)
        server.over.wait(1.0)
        return 200, {}

    server.get = slow  # type: ignore[method-assign]
    with pytest.raises(TargetUnreadable, match="cannot be asked"):
        effect_of(server, "restart", timeout=0.2).snapshot()
    time.sleep(0.3)
    assert len(asked) == 1


def test_a_list_that_goes_on_is_not_decided_on(server: ScriptedApiServer) -> None:
    """What was cut off may hold the pod that decides."""
    get = server.get

    def cut_off(path: str) -> tuple[int, Any]:
        status, answer = get(path)
        return status, {**answer, "metadata": {"continue": "x"}} if path.endswith("/pods") else answer

    server.get = cut_off  # type: ignore[method-assign]
    with pytest.raises(TargetUnreadable, match="more than 500 pods"):
        effect_of(server, "evict").snapshot()


def test_a_missing_extra_is_named_when_a_workload_is_configured(
    server: ScriptedApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And only then: a fabric that heals over HTTP needs no client of Kubernetes."""
    take_away("kubernetes", monkeypatch)
    with pytest.raises(TargetUnreadable, match=r"pip install 'self-healing-fabric\[kubernetes\]'"):
        effect_of(server, "restart")
    over_http = {"recovery": {"http": {"restart": "http://127.0.0.1:9/"}}}
    settings = Settings.model_validate({"services": {"cart": over_http}})
    assert platform_of("cart", settings) is not None


def test_what_the_platform_cannot_do_is_said_without_asking(server: ScriptedApiServer) -> None:
    """A plan is made before anything is asked."""
    server.go_away()
    with pytest.raises(NotApplicable, match="nothing can repair"):
        effect_of(server, "repair")


@pytest.mark.parametrize("begins", [IN_BODY, IN_HEADERS], ids=["body", "headers"])
def test_an_api_server_whose_answer_comes_byte_by_byte_is_away(
    server: ScriptedApiServer, begins: bytes
) -> None:
    """Nobody waits for ever; what became of an order cannot be learnt; the status page says who is away."""
    before = effect_of(server, "restart").snapshot()
    own = f"http://127.0.0.1:{server._server.server_port}"
    with dripping_server(begins) as url:
        server.kubeconfig.write_text(server.kubeconfig.read_text().replace(own, url))
        effect = effect_of(server, "restart", timeout=0.5)
        with pytest.raises(TargetAway):
            within_deadline(effect.snapshot)
        (asked,) = servers_asked.known("kubernetes", url)
        assert asked.answers is False
        assert within_deadline(lambda: effect.observe(before)).status is Status.INDETERMINATE
