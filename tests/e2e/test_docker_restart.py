"""Restart of containers on a real engine: what is asserted is what the engine and the container say.

The question behind every test is the same: how often was it restarted, and does the fabric know?
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
from docker.types import Mount
from docker_engine import IGNORES, IMAGE, DockerEngine, Web, remove, require_engine, wait_until
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from missing_extra import take_away
from one_step import INCIDENT, Watching, fabric_on, open_incident, release, step
from self_healing_fabric import servers_asked
from self_healing_fabric.orchestration.context import Context
from self_healing_fabric.orchestration.healing_orchestrator import HealingOrchestrator
from self_healing_fabric.recovery.effects import Effect, NotApplicable, Progress, TargetUnreadable
from self_healing_fabric.recovery.outcomes import Status
from self_healing_fabric.recovery.platforms import docker as platform
from self_healing_fabric.recovery.platforms import platform_of
from self_healing_fabric.recovery.strategies import strategies
from self_healing_fabric.recovery.verification import Verifier
from self_healing_fabric.settings import ServiceSettings, Settings
from self_healing_fabric.store import statements

pytestmark = [pytest.mark.e2e, pytest.mark.docker]

SERVICE = "tokenguard"


# The Docker SDK leaves the socket to the garbage collector with which it could not connect.
engine_away = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")


@pytest.fixture(scope="module")
def engine() -> Iterator[DockerEngine]:
    """An engine for the tests that leave it running."""
    require_engine()
    with DockerEngine() as engine:
        yield engine


@pytest.fixture
def own_engine() -> Iterator[DockerEngine]:
    """An engine for a test that stops or kills it; mark the test `engine_away`."""
    require_engine()
    with DockerEngine() as engine:
        yield engine
    gc.collect()


def service(host: str, container: str, **more: Any) -> ServiceSettings:
    """A service that is repaired by restarting a container."""
    recovery = {"docker": {"host": host, "container": container, **more}}
    return ServiceSettings.model_validate({"recovery": recovery})


def effect(settings: ServiceSettings) -> Effect:
    """A restart of the service's container."""
    return strategies(Settings(services={SERVICE: settings}))["restart"].on(SERVICE)


def restart(settings: ServiceSettings, before: Any, *, permitted: bool = True) -> tuple[Status, str]:
    """Perform the strategy once."""
    outcome = effect(settings).perform(key="key", attempt=1, before=before, permit=lambda: permitted)
    return outcome.status, outcome.detail


def observe(settings: ServiceSettings, before: Any) -> tuple[Status, str]:
    """What the strategy learns after an interruption."""
    outcome = effect(settings).observe(before)
    return outcome.status, outcome.detail


def test_a_restart_restarts_exactly_once(engine: DockerEngine) -> None:
    """A new start time, a new process that answers, one restart in the engine's own records."""
    with engine.web("tokenguard") as web:
        settings = service(engine.host, "tokenguard")
        before, page, started_at = effect(settings).snapshot(), web.page(), web.started_at()
        assert restart(settings, before) == (Status.SUCCEEDED, "container tokenguard was restarted")
        assert web.wait_answering() != page
        assert web.started_at() != started_at == before["started_at"]
        assert (web.events("restart"), web.events("start")) == (1, 2)


def test_looking_at_a_container_does_not_touch_it(engine: DockerEngine) -> None:
    """`shf check`, `before` and `observe` only read."""
    with engine.web("looked-at") as web:
        settings = service(engine.host, "looked-at")
        found, started_at = platform_of(SERVICE, Settings(services={SERVICE: settings})), web.started_at()
        assert found is not None
        assert found.check() == "container looked-at is running"
        observe(settings, effect(settings).snapshot())
        assert (web.events("restart"), web.started_at()) == (0, started_at)


def test_a_container_that_ignores_sigterm_is_restarted_after_its_time(engine: DockerEngine) -> None:
    """It is killed when `stop_timeout` is over, and that is within what `longest_effect` promises."""
    with engine.web("stubborn", on_term=IGNORES) as web:
        settings = service(engine.host, "stubborn", stop_timeout="2s")
        before, began = effect(settings).snapshot(), time.monotonic()
        assert restart(settings, before)[0] is Status.SUCCEEDED
        assert 2.0 <= time.monotonic() - began < effect(settings).longest_effect
        assert web.wait_answering()
        assert web.events("restart") == 1


def test_a_fraction_of_a_second_still_lets_a_container_end_by_itself(engine: DockerEngine) -> None:
    """The engine counts in whole seconds: half a second must not become none, which is SIGKILL at once."""
    with engine.web("polite", on_term="sleep 0.2; exit 0") as web:
        settings = service(engine.host, "polite", stop_timeout="400ms")
        assert restart(settings, effect(settings).snapshot())[0] is Status.SUCCEEDED
        assert web.exit_codes() == [0]


def test_a_container_can_be_named_by_its_short_id(engine: DockerEngine) -> None:
    """As `docker ps` shows it."""
    with engine.web("by-id") as web:
        settings = service(engine.host, web.id[:12])
        assert restart(settings, effect(settings).snapshot())[0] is Status.SUCCEEDED
        assert web.events("restart") == 1


def test_a_container_whose_id_only_begins_like_the_name_is_not_the_target(engine: DockerEngine) -> None:
    """Without a container `db`, the engine would hand out any whose id begins with db."""
    with engine.web("innocent") as web:
        settings = service(engine.host, web.id[:6])
        with pytest.raises(TargetUnreadable, match="innocent only has an id that begins so"):
            effect(settings).snapshot()
        stale = {"id": web.id[:6].ljust(64, "0"), "started_at": web.started_at(), "restart_count": 0}
        assert observe(settings, stale)[0] is Status.INDETERMINATE
        assert web.events("restart") == 0


def test_an_absent_container_is_no_target(engine: DockerEngine) -> None:
    """There is nothing to remember of it, so no action is announced, and `shf check` says so."""
    settings = service(engine.host, "nobody")
    found = platform_of(SERVICE, Settings(services={SERVICE: settings}))
    assert found is not None
    for ask in (found.check, effect(settings).snapshot):
        with pytest.raises(TargetUnreadable, match="no container is called nobody"):
            ask()


def test_a_container_that_vanished_before_the_effect_fails(engine: DockerEngine) -> None:
    """Nothing was done and nothing can be: failed, not indeterminate."""
    settings = service(engine.host, "short-lived")
    with engine.web("short-lived"):
        before = effect(settings).snapshot()
    gone = "no container is called short-lived; nothing was ordered"
    assert restart(settings, before) == (Status.FAILED, gone)
    assert observe(settings, before)[0] is Status.INDETERMINATE


def test_another_container_that_took_over_the_name_is_not_restarted(engine: DockerEngine) -> None:
    """A deployment came between: the evidence was about the container that is gone."""
    settings = service(engine.host, "replaced")
    with engine.web("replaced"):
        before = effect(settings).snapshot()
    with engine.web("replaced") as newcomer:
        started_at = newcomer.started_at()
        assert restart(settings, before)[0] is Status.FAILED
        assert (newcomer.events("restart"), newcomer.started_at()) == (0, started_at)
        status, detail = observe(settings, before)
        assert status is Status.INDETERMINATE
        assert "that container has been removed since" in detail


def test_after_an_interruption_the_engine_tells_what_became_of_it(engine: DockerEngine) -> None:
    """An unchanged start time means that it did not happen, a changed one that it did."""
    with engine.web("interrupted") as web:
        settings = service(engine.host, "interrupted")
        before = effect(settings).snapshot()
        assert observe(settings, before)[0] is Status.FAILED
        web.container().restart(timeout=5)
        assert observe(settings, before)[0] is Status.SUCCEEDED
        assert web.events("restart") == 1


def test_a_start_by_the_restart_policy_is_not_mistaken_for_ours(engine: DockerEngine) -> None:
    """A crashing container gets new start times all the time; whether one was ours cannot be learnt."""
    with engine.web("crashing", restart_policy={"Name": "always"}) as web:
        settings = service(engine.host, "crashing")
        before = effect(settings).snapshot()
        os.kill(web.state()["Pid"], signal.SIGKILL)
        wait_until("the policy starts it", lambda: web.started_at() != before["started_at"])
        assert observe(settings, before)[0] is Status.INDETERMINATE
        assert restart(settings, before)[0] is Status.SUCCEEDED
        assert observe(settings, before)[0] is Status.SUCCEEDED  # an order resets the engine's count


def test_an_answer_that_gets_lost_is_not_taken_for_a_failure(
    engine: DockerEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine hangs in the middle: nobody knows, and nothing is repeated; later the engine can tell."""
    monkeypatch.setattr(platform, "ENGINE_TIMEOUT", 1.0)
    with engine.web("lost-answer", on_term=IGNORES) as web, ThreadPoolExecutor(1) as pool:
        settings = service(engine.host, "lost-answer", stop_timeout="2s")
        before = effect(settings).snapshot()
        try:
            answer = pool.submit(restart, settings, before)
            wait_until("the engine stops the container", lambda: web.events("kill") > 0)
            engine.signal(signal.SIGSTOP)
            assert answer.result(timeout=20)[0] is Status.INDETERMINATE
        finally:
            engine.signal(signal.SIGCONT)
        wait_until("the engine does what it was told", lambda: web.events("restart") == 1)
        assert observe(settings, before)[0] is Status.SUCCEEDED


def test_an_engine_that_hangs_is_given_up_and_nothing_was_done(
    engine: DockerEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes connections and answers none: the order itself is never sent."""
    monkeypatch.setattr(platform, "ENGINE_TIMEOUT", 1.0)
    with engine.web("unheard") as web:
        settings = service(engine.host, "unheard")
        before, began = effect(settings).snapshot(), time.monotonic()
        try:
            engine.signal(signal.SIGSTOP)
            assert restart(settings, before)[0] is Status.FAILED
            assert time.monotonic() - began < effect(settings).longest_effect
        finally:
            engine.signal(signal.SIGCONT)
        assert (web.events("restart"), web.started_at()) == (0, before["started_at"])


@engine_away
def test_without_an_engine_nothing_is_done_and_nothing_is_known(own_engine: DockerEngine) -> None:
    """An order that cannot be sent has failed; what became of an earlier one cannot be learnt."""
    with own_engine.web("orphan") as web:
        settings = service(own_engine.host, "orphan")
        before = effect(settings).snapshot()
        own_engine.stop()
        with pytest.raises(TargetUnreadable, match=f"the engine at {own_engine.host} cannot be asked"):
            effect(settings).snapshot()
        assert restart(settings, before)[0] is Status.FAILED
        assert observe(settings, before)[0] is Status.INDETERMINATE
        own_engine.start()
        assert web.started_at() == before["started_at"]


FORGETS = "[ -e /marked ] && exec sleep 1000; touch /marked; "  # fails the first time only
EATS_MEMORY = "x=0123456789abcdef; while true; do x=$x$x; done"


@contextmanager
def failing(engine: DockerEngine, name: str, command: str, **options: Any) -> Iterator[Any]:
    """A container that runs a command in which it fails."""
    made = engine.client.containers.run(
        IMAGE, ["sh", "-c", command], name=name, network_mode="host", detach=True, **options
    )
    try:
        yield made
    finally:
        remove(made)


def until(made: Any, what: str, condition: Callable[[Any], bool]) -> None:
    """Wait until the engine says so of the container."""

    def holds() -> bool:
        made.reload()
        return condition(made.attrs)

    wait_until(what, holds, 30.0)


def test_a_container_killed_for_its_memory_runs_again_after_a_restart(engine: DockerEngine) -> None:
    """The kernel ended it at its limit, and nothing starts it: the restart does, once, and it settles."""
    limit = {"mem_limit": 16 * 2**20, "memswap_limit": 16 * 2**20}
    with failing(engine, "hungry", FORGETS + EATS_MEMORY, **limit) as made:
        until(made, "it is killed", lambda attrs: attrs["State"]["Status"] == "exited")
        assert made.attrs["State"]["ExitCode"] == 137
        settings = service(engine.host, "hungry")
        before = effect(settings).snapshot()
        assert effect(settings).settled(before).progress is Progress.FAILED
        assert restart(settings, before)[0] is Status.SUCCEEDED
        assert effect(settings).settled(before).progress is Progress.DONE
        assert len(engine.events("restart", str(made.id))) == 1


def test_a_container_that_ends_again_and_again_does_not_settle(engine: DockerEngine) -> None:
    """The restart happened; that its restart policy has to start it since is the proof that it did not
    help."""
    with failing(engine, "looping", "sleep 0.3; exit 3", restart_policy={"Name": "always"}) as made:
        until(made, "it has ended", lambda attrs: attrs["RestartCount"] > 0)
        settings = service(engine.host, "looping")
        before = effect(settings).snapshot()
        assert restart(settings, before)[0] is Status.SUCCEEDED
        until(made, "it has ended since", lambda attrs: attrs["RestartCount"] > 0)
        settling = effect(settings).settled(before)
        assert settling.progress is Progress.FAILED
        assert "started again" in settling.detail


FAILS_SIX_TIMES = "x=$(cat /times)1; echo $x > /times; [ ${#x} -gt 6 ] && exec sleep 999; exit 1"


def test_a_start_that_the_restart_policy_was_about_to_make_is_not_mistaken_for_ours(
    engine: DockerEngine,
) -> None:
    """In a crash loop a container mostly waits for its next start, which the engine has counted by then."""
    with failing(engine, "waits", FAILS_SIX_TIMES, restart_policy={"Name": "always"}) as made:
        until(made, "it waits", lambda attrs: attrs["RestartCount"] == 6 and attrs["State"]["Restarting"])
        settings = service(engine.host, "waits")
        before = effect(settings).snapshot()
        until(made, "it runs", lambda attrs: not attrs["State"]["Restarting"])
        assert observe(settings, before)[0] is Status.INDETERMINATE
        assert restart(settings, before)[0] is Status.SUCCEEDED


def stop(made: Any) -> None:
    """As people do."""
    made.stop(timeout=1)


def pause(made: Any) -> None:
    """As people do."""
    made.pause()


SLEEPS = "trap 'exit 0' TERM; while true; do sleep 0.1; done"


@pytest.mark.parametrize(("takes_down", "reason"), [(stop, "stopped"), (pause, "paused")])
def test_what_people_have_taken_down_stays_down(
    engine: DockerEngine, takes_down: Callable[[Any], None], reason: str
) -> None:
    """Before the decision, and between it and the order; started by them, it is restarted again."""
    with failing(engine, "taken-down", SLEEPS) as made:
        settings = service(engine.host, "taken-down")
        before = effect(settings).snapshot()
        takes_down(made)
        with pytest.raises(NotApplicable, match=f"somebody has {reason} taken-down"):
            effect(settings).snapshot()
        status, detail = restart(settings, before)
        assert status is Status.FAILED
        assert detail.endswith("nothing was ordered")
        assert len(engine.events("start", str(made.id))) == 1
        made.reload()
        made.unpause() if made.status == "paused" else made.start()
        assert restart(settings, effect(settings).snapshot())[0] is Status.SUCCEEDED


@engine_away
def test_what_people_have_stopped_is_told_by_its_restart_policy_when_events_are_lost(
    own_engine: DockerEngine,
) -> None:
    """A restarted engine knows of no event, but it would have started what had ended by itself."""
    policy = {"Name": "unless-stopped"}
    with failing(own_engine, "off", SLEEPS, restart_policy=policy) as made:
        made.stop(timeout=1)
        own_engine.stop()
        own_engine.start()
        assert own_engine.events("stop", str(made.id)) == []
        with pytest.raises(NotApplicable, match="somebody has stopped off"):
            effect(service(own_engine.host, "off")).snapshot()
        assert own_engine.client.containers.get("off").status == "exited"


def test_a_container_that_was_never_started_is_not_restarted(engine: DockerEngine) -> None:
    """Compose holds back what depends on something that is not healthy."""
    made = engine.client.containers.create(IMAGE, ["sh", "-c", SLEEPS], name="held-back")
    try:
        with pytest.raises(NotApplicable, match="held-back was never started"):
            effect(service(engine.host, "held-back")).snapshot()
    finally:
        made.remove()


def test_a_task_of_swarm_is_left_to_swarm(engine: DockerEngine) -> None:
    """It starts another one in place of what ends: restarted, the service would run twice."""
    labels = {"com.docker.swarm.task.id": "oik3", "com.docker.swarm.service.name": "shop_web"}
    with failing(engine, "shop_web.1.oik3", SLEEPS, labels=labels) as made:
        settings = service(engine.host, "shop_web.1.oik3")
        found = platform_of(SERVICE, Settings(services={SERVICE: settings}))
        assert found is not None
        for ask, error in ((effect(settings).snapshot, NotApplicable), (found.check, TargetUnreadable)):
            with pytest.raises(error, match="service update --force shop_web"):
                ask()
        assert engine.events("restart", str(made.id)) == []


def test_what_somebody_has_restarted_since_is_not_restarted_again(engine: DockerEngine) -> None:
    """It is another process than the one that was decided on."""
    with engine.web("restarted") as web:
        settings = service(engine.host, "restarted")
        before = effect(settings).snapshot()
        web.container().restart(timeout=1)
        since = "somebody has started restarted since; nothing was ordered"
        assert restart(settings, before) == (Status.FAILED, since)
        assert web.events("restart") == 1


@contextmanager
def with_own_time(engine: DockerEngine, name: str, seconds: int, on_term: str) -> Iterator[Any]:
    """A container with a time to end of its own, `stop_grace_period` in Compose."""
    config = {
        "Image": IMAGE,
        "Cmd": ["sh", "-c", f"trap '{on_term}' TERM; while true; do sleep 0.1; done"],
        "StopTimeout": seconds,
        "HostConfig": {"NetworkMode": "host"},
    }
    made = engine.client.api.create_container_from_config(config, name)
    engine.client.api.start(made["Id"])
    try:
        yield engine.client.containers.get(name)
    finally:
        remove(engine.client.containers.get(name))


def test_a_container_has_its_own_time_to_end(engine: DockerEngine) -> None:
    """A database that takes its time is not killed; a configured time goes before its own."""
    with with_own_time(engine, "database", 20, "sleep 11; exit 0") as made:
        settings = service(engine.host, "database")
        assert restart(settings, effect(settings).snapshot())[0] is Status.SUCCEEDED
        (died,) = engine.events("die", made.id)
        assert died["Actor"]["Attributes"]["exitCode"] == "0"
    with with_own_time(engine, "quick", 20, "") as made:
        settings = service(engine.host, "quick", stop_timeout="1s")
        assert restart(settings, effect(settings).snapshot())[0] is Status.SUCCEEDED
        (died,) = engine.events("die", made.id)
        assert died["Actor"]["Attributes"]["exitCode"] == "137"


def test_a_container_that_may_take_longer_than_an_action_is_not_killed_unasked(
    engine: DockerEngine,
) -> None:
    """People say when it may be killed, or restart it themselves."""
    with with_own_time(engine, "slow", 60, "exit 0"):
        with pytest.raises(NotApplicable, match=r"may take 60 s to end.*recovery\.docker\.stop_timeout"):
            effect(service(engine.host, "slow")).snapshot()
        effect(service(engine.host, "slow", stop_timeout="30s")).snapshot()


def test_a_container_that_cannot_be_started_again_is_a_failure_with_its_reason(
    engine: DockerEngine, tmp_path: Path
) -> None:
    """The engine has answered: it is known what happened, and it may be tried again."""
    folder = tmp_path / "folder"
    folder.mkdir()
    mounts = [Mount("/data", str(folder), type="bind")]
    with failing(engine, "mounted", SLEEPS, mounts=mounts) as made:
        settings = service(engine.host, "mounted")
        before = effect(settings).snapshot()
        folder.rmdir()
        status, detail = restart(settings, before)
        assert status is Status.FAILED
        assert "mounted: it is down, for the engine cannot start it" in detail
        folder.mkdir()
        assert restart(settings, effect(settings).snapshot())[0] is Status.SUCCEEDED
        assert len(engine.events("restart", str(made.id))) == 1


@pytest.mark.parametrize(("check", "progress"), [("[ -e /marked ]", "done"), ("false", "failed")])
def test_a_container_settles_when_it_passes_its_health_check(
    engine: DockerEngine, check: str, progress: str
) -> None:
    """Starting is not yet healthy, and unhealthy is no success of a restart."""
    probe = {"test": ["CMD-SHELL", check], "interval": 300_000_000, "timeout": 2_000_000_000, "retries": 2}
    with failing(engine, "sick", "sleep 0.5; " + FORGETS + "exec sleep 999", healthcheck=probe) as made:
        settings = service(engine.host, "sick", stop_timeout="1s")
        before = effect(settings).snapshot()
        assert restart(settings, before)[0] is Status.SUCCEEDED
        assert effect(settings).settled(before).progress is Progress.UNDER_WAY
        until(made, "it was probed", lambda attrs: attrs["State"]["Health"]["Status"] != "starting")
        assert effect(settings).settled(before).progress is Progress(progress)


def test_a_missing_sdk_is_said_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    """The Docker SDK is an extra: who configures a container without it is told what to install."""
    take_away("docker", monkeypatch)
    with pytest.raises(TargetUnreadable, match=r"pip install 'self-healing-fabric\[docker\]'"):
        platform_of(SERVICE, Settings(services={SERVICE: service("unix:///nowhere", SERVICE)}))


def values(store: Path, host: str, container: str) -> dict[str, Any]:
    """The settings of a fabric with one service on Docker."""
    return {
        "store": f"sqlite:///{store}",
        "guardrails": {"cooldown": 0},
        "services": {SERVICE: service(host, container, stop_timeout="3s").model_dump()},
    }


def waiting_for(context: Context) -> str:
    """What the incident waits for, as people read it."""
    incident = context.store.read(lambda connection: statements.incident(connection, INCIDENT))
    assert incident is not None
    return str(incident.waiting_for)


def state_and_actions(context: Context) -> tuple[str, list[str]]:
    """The incident's state and the status of each of its actions."""
    incident = context.store.read(lambda connection: statements.incident(connection, INCIDENT))
    actions = context.store.read(lambda connection: statements.actions_of(connection, INCIDENT))
    assert incident is not None
    return incident.state, [row.status for row in actions]


def test_a_restart_whose_permit_is_over_does_not_happen(engine: DockerEngine) -> None:
    """Whoever holds the incident now may try; the container is left alone."""
    with engine.web("unpermitted") as web:
        settings = service(engine.host, "unpermitted")
        before = effect(settings).snapshot()
        assert restart(settings, before, permitted=False)[0] is Status.FAILED
        assert web.events("restart") == 0
        assert restart(settings, before)[0] is Status.SUCCEEDED
        assert web.events("restart") == 1


def test_the_state_machine_restarts_a_container_once_and_then_verifies(
    engine: DockerEngine, tmp_path: Path
) -> None:
    """From a plan to the effect at the target, with everything in the journal."""
    with (
        engine.web("healed") as web,
        fabric_on(values(tmp_path / "shf.db", engine.host, "healed")) as context,
    ):
        open_incident(context, "restart", service=SERVICE)
        step(context)
        assert state_and_actions(context) == ("verifying", ["succeeded"])
        assert web.wait_answering()
        assert web.events("restart") == 1


def test_what_is_removed_amid_a_restart_was_not_restarted(engine: DockerEngine, tmp_path: Path) -> None:
    """A deployment put another one in its place: the engine has refused, and the new one is left alone."""
    with (
        engine.web("replaced-amid", on_term=IGNORES) as web,
        ThreadPoolExecutor(1) as pool,
        fabric_on(values(tmp_path / "shf.db", engine.host, web.name)) as context,
    ):
        open_incident(context, "restart", service=SERVICE)
        stepped = pool.submit(step, context)
        wait_until("the engine stops the container", lambda: web.events("kill") > 0)
        remove(web.container())
        with engine.web("replaced-amid") as newcomer:
            stepped.result(timeout=30)
            assert state_and_actions(context) == ("escalated", ["failed"])
            (action,) = context.store.read(lambda connection: statements.actions_of(connection, INCIDENT))
            assert action.detail.endswith("that container has been removed since")
            assert (newcomer.events("start"), newcomer.events("restart")) == (1, 0)


def test_a_container_that_got_another_name_still_tells_whether_it_was_restarted(engine: DockerEngine) -> None:
    """It was ordered by its id, and what updates containers renames the old one first."""
    with engine.web("renamed") as web:
        settings = service(engine.host, "renamed")
        before = effect(settings).snapshot()
        web.container().rename("renamed-old")
        assert observe(settings, before)[0] is Status.FAILED
        web.container().restart(timeout=5)
        assert observe(settings, before)[0] is Status.SUCCEEDED
        with engine.web("renamed"):
            assert observe(settings, before)[0] is Status.SUCCEEDED
        assert web.events("restart") == 1


@engine_away
def test_an_engine_that_goes_away_right_before_the_order_is_waited_for(
    own_engine: DockerEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing was ordered: that is no reason to call people, and it is done when the engine is back."""
    perform = platform.DockerRestart.perform

    def too_late(*arguments: Any, **options: Any) -> Any:
        own_engine.stop()
        return perform(*arguments, **options)

    with own_engine.web("too-late") as web:
        settings = values(tmp_path / "shf.db", own_engine.host, web.name)
        with fabric_on(settings) as context, monkeypatch.context() as patch:
            patch.setattr(platform.DockerRestart, "perform", too_late)
            open_incident(context, "restart", service=SERVICE)
            step(context)
            assert state_and_actions(context) == ("recovering", ["failed"])
            step(context)
            assert state_and_actions(context) == ("recovering", ["failed"])
        own_engine.start()
        with fabric_on(settings, later=60) as context:
            step(context)
            assert state_and_actions(context) == ("verifying", ["failed", "succeeded"])
        assert web.wait_answering()


@engine_away
def test_an_engine_that_is_updated_is_waited_for(own_engine: DockerEngine, tmp_path: Path) -> None:
    """Its containers end with it, which is why there is an incident; when it is back they are restarted."""
    store = tmp_path / "shf.db"
    with own_engine.web("updated") as web:
        own_engine.stop()
        with fabric_on(values(store, own_engine.host, web.name)) as context:
            open_incident(context, "restart", service=SERVICE)
            step(context)
            assert state_and_actions(context) == ("recovering", [])
        own_engine.start()
        with fabric_on(values(store, own_engine.host, web.name), later=60) as context:
            step(context)
            assert state_and_actions(context) == ("verifying", ["succeeded"])
        assert web.wait_answering()


def test_an_engine_that_hangs_keeps_no_other_service_from_being_healed(
    engine: DockerEngine, tmp_path: Path, httpserver: HTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four workers, twelve services on one engine, and one elsewhere, which is restarted meanwhile."""
    restarted = threading.Event()

    def take(_: Request) -> Response:
        restarted.set()
        return Response()

    httpserver.expect_request("/restart", method="POST").respond_with_handler(take)
    monkeypatch.setattr(platform, "ENGINE_TIMEOUT", 3.0)
    with engine.web("hangs") as web:
        sick = [f"s{number}" for number in range(12)]
        services = {name: service(engine.host, web.name).model_dump() for name in sick}
        elsewhere = {"recovery": {"http": {"restart": httpserver.url_for("/restart")}}}
        settings = {
            **values(tmp_path / "shf.db", engine.host, web.name),
            "workers": 4,
            "services": {**services, "elsewhere": elsewhere},
            "guardrails": {"fleet": {"at_once": 100, "storm": "100%", "targets": "100%"}},
        }
        with fabric_on(settings) as context:
            context = replace(context, verifier=cast(Verifier, Watching()))
            orchestrator = HealingOrchestrator(context)
            for number, name in enumerate(sick):
                open_incident(context, "restart", service=name, incident_id=f"20260101-000000-{number:06}")
            engine.signal(signal.SIGSTOP)
            try:
                orchestrator.start()
                asked = partial(servers_asked.known, "docker", engine.host)
                wait_until("it is known to hang", lambda: any(each.answers is False for each in asked()))
                monkeypatch.setattr(platform, "ENGINE_TIMEOUT", 60.0)
                time.sleep(2.0)  # others look at it by now
                open_incident(context, "restart", service="elsewhere")
                assert restarted.wait(20.0)
            finally:
                engine.signal(signal.SIGCONT)
                orchestrator.stop()


@contextmanager
def engine_killed_amid(
    engine: DockerEngine, store: Path, **more: Any
) -> Iterator[tuple[Web, dict[str, Any]]]:
    """An engine that died while it stopped the container for a restart, which waits for it to come back."""
    with engine.web("cut-off", on_term=IGNORES) as web, ThreadPoolExecutor(1) as pool:
        settings = values(store, engine.host, web.name) | more
        with fabric_on(settings) as context:
            open_incident(context, "restart", service=SERVICE)
            stepped = pool.submit(step, context)
            wait_until("the engine stops the container", lambda: web.events("kill") > 0)
            process = web.state()["Pid"]
            engine.kill()
            stepped.result(timeout=30)
            assert state_and_actions(context) == ("recovering", ["started"])
        os.kill(process, signal.SIGKILL)  # or the next engine would wait 10 s for it to end
        try:
            yield web, settings
        finally:
            if engine.is_away():
                engine.start()


@engine_away
def test_an_engine_that_dies_amid_a_restart_tells_when_it_is_back(
    own_engine: DockerEngine, tmp_path: Path
) -> None:
    """Nobody is called for what it can tell half a minute later; what did not happen is done, once."""
    with engine_killed_amid(own_engine, tmp_path / "shf.db") as (web, settings):
        with fabric_on(settings, later=60) as context:
            step(context)
            assert state_and_actions(context) == ("recovering", ["started"])
            assert "is not known yet" in waiting_for(context)
        own_engine.start()
        with fabric_on(settings, later=120) as context:
            step(context)
            # A hung engine would carry out only now what it got before.
            assert state_and_actions(context) == ("recovering", ["started"])
            assert "the target answers and is asked in" in waiting_for(context)
        with fabric_on(settings, later=240) as context:
            step(context)
            assert state_and_actions(context) == ("recovering", ["failed"])
            (action,) = context.store.read(lambda connection: statements.actions_of(connection, INCIDENT))
            assert "the engine failed: " in action.detail  # and not the fabric
            step(context)
            assert state_and_actions(context) == ("verifying", ["failed", "succeeded"])
        assert web.wait_answering()
        assert web.events("restart") == 1


@engine_away
def test_an_engine_that_is_restarted_amid_a_restart_is_given_the_time_that_it_takes(
    own_engine: DockerEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a socket of systemd's it answers at once, by then another process: nothing has been restarted."""
    look, back = platform.DockerRestart._look, threading.Event()

    def look_when_back(self: platform.DockerRestart) -> Any:
        assert back.wait(60)
        return look(self)

    monkeypatch.setattr(platform.DockerRestart, "_look", look_when_back)
    with own_engine.web("cut-off", on_term=IGNORES) as web, ThreadPoolExecutor(1) as pool:
        settings = values(tmp_path / "shf.db", own_engine.host, web.name)
        with fabric_on(settings) as context:
            open_incident(context, "restart", service=SERVICE)
            stepped = pool.submit(step, context)
            wait_until("the engine stops the container", lambda: web.events("kill") > 0)
            process = web.state()["Pid"]
            own_engine.kill()
            os.kill(process, signal.SIGKILL)
            own_engine.start()
            back.set()
            stepped.result(timeout=60)
            assert state_and_actions(context) == ("recovering", ["started"])
        for later, found in ((60, "started"), (120, "failed")):
            with fabric_on(settings, later=later) as context:
                step(context)
                assert state_and_actions(context) == ("recovering", [found])
        with fabric_on(settings, later=120) as context:
            step(context)
            assert state_and_actions(context) == ("verifying", ["failed", "succeeded"])
        assert web.wait_answering()
        assert web.events("restart") == 1


@engine_away
def test_an_engine_that_does_not_come_back_is_not_waited_for_for_ever(
    own_engine: DockerEngine, tmp_path: Path
) -> None:
    """When `escalation.max_wait` is over people are called: only they can tell what became of it."""
    patience = {"escalation": {"max_wait": "8s"}}
    with engine_killed_amid(own_engine, tmp_path / "shf.db", **patience) as (_, settings):
        for later, found in ((3600, ("recovering", ["started"])), (7200, ("escalated", ["indeterminate"]))):
            with fabric_on(settings, later=later) as context:
                step(context)
                assert state_and_actions(context) == found


@engine_away
def test_an_engine_that_hangs_amid_a_restart_restarts_once(
    own_engine: DockerEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It carries out the order only when it goes on, long after it was given up: it is not given again."""
    monkeypatch.setattr(platform, "ENGINE_TIMEOUT", 1.0)
    with own_engine.web("hung", on_term=IGNORES) as web:
        settings = values(tmp_path / "shf.db", own_engine.host, web.name)
        with fabric_on(settings) as context:
            # The lease is the last that is asked for: then the order goes out.
            monkeypatch.setattr(
                context.leases, "holds", lambda *_, **__: own_engine.signal(signal.SIGSTOP) is None
            )
            open_incident(context, "restart", service=SERVICE)
            step(context)
            assert state_and_actions(context) == ("recovering", ["started"])
        own_engine.signal(signal.SIGCONT)
        wait_until("the engine takes the order", lambda: web.events("kill") > 0)
        with fabric_on(settings, later=3600) as context:
            step(context)
            assert state_and_actions(context) == ("recovering", ["started"])  # it still stops the container
        wait_until("the engine does what it was told", lambda: web.events("restart") == 1)
        with fabric_on(settings, later=7200) as context:
            step(context)
            assert state_and_actions(context) == ("verifying", ["succeeded"])
        assert web.events("restart") == 1


def begin_to_restart(store: Path, host: str, container: str, die_first: bool) -> None:
    """The life of a fabric that is killed: in a process of its own."""
    with fabric_on(values(store, host, container)) as context:
        if die_first:
            kill_me: Any = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)  # noqa: E731
            platform.DockerRestart.perform = kill_me  # type: ignore[method-assign]
        open_incident(context, "restart", service=SERVICE)
        step(context)


def killed_fabric(store: Path, web: Web, *, die_first: bool) -> None:
    """Run a fabric that is killed with SIGKILL, right before its order or while the engine carries it out."""
    arguments = (store, web.engine.host, web.name, die_first)
    process = multiprocessing.get_context("spawn").Process(target=begin_to_restart, args=arguments)
    process.start()
    if not die_first:
        wait_until("the engine stops the container", lambda: web.events("kill") > 0)
        process.kill()
    process.join(30)
    assert process.exitcode == -signal.SIGKILL
    process.close()


def test_a_fabric_killed_during_a_restart_does_not_restart_again(
    engine: DockerEngine, tmp_path: Path
) -> None:
    """The engine finishes without it; the next fabric waits, asks the engine, and goes on to verify."""
    store = tmp_path / "shf.db"
    with engine.web("killed-amid", on_term=IGNORES) as web:
        killed_fabric(store, web, die_first=False)
        with fabric_on(values(store, engine.host, web.name), later=1) as context:
            release(context)
            step(context)
            assert state_and_actions(context) == ("recovering", ["started"])  # too early to ask
        wait_until("the engine does what it was told", lambda: web.events("restart") == 1)
        with fabric_on(values(store, engine.host, web.name), later=120) as context:
            step(context)
            assert state_and_actions(context) == ("verifying", ["succeeded"])
        assert web.wait_answering()
        assert web.events("restart") == 1


def test_a_fabric_killed_before_its_order_restarts_once_afterwards(
    engine: DockerEngine, tmp_path: Path
) -> None:
    """The engine says that nothing happened, so it may be tried: one restart in all."""
    store = tmp_path / "shf.db"
    with engine.web("killed-before") as web:
        killed_fabric(store, web, die_first=True)
        with fabric_on(values(store, engine.host, web.name), later=120) as context:
            release(context)
            step(context)
            assert state_and_actions(context) == ("recovering", ["failed"])
            assert web.events("restart") == 0
            step(context)
            assert state_and_actions(context) == ("verifying", ["failed", "succeeded"])
        assert web.wait_answering()
        assert web.events("restart") == 1
