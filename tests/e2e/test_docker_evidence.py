"""What a real engine testifies about containers that really fail, and what the diagnosis makes of it."""

from __future__ import annotations

import contextlib
import gc
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from docker.models.containers import Container
from docker_engine import IMAGE, DockerEngine, remove, require_engine, wait_until

from deadline import within_deadline
from self_healing_fabric.diagnosis.evidence import Observations
from self_healing_fabric.diagnosis.failure_classifier import FailureClass, classify
from self_healing_fabric.diagnosis.patterns import ChangeKind, Pattern
from self_healing_fabric.diagnosis.root_cause_analyzer import Cause, analyze
from self_healing_fabric.diagnosis.sources import Condition, Report, sources_of
from self_healing_fabric.diagnosis.sources.inquiry import Inquiry
from self_healing_fabric.settings import KubernetesSettings, ServiceSettings, Thresholds

pytestmark = [pytest.mark.e2e, pytest.mark.docker]

MEMORY = 16 * 2**20  # bytes
# A shell's variable that doubles: real memory, taken until the kernel ends it.
EATS_MEMORY = "sleep 0.5; x=0123456789abcdef; while true; do x=$x$x; done"


# The Docker SDK leaves the socket to the garbage collector with which it could not connect.
engine_away = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")


@pytest.fixture(scope="module")
def engine() -> Iterator[DockerEngine]:
    """An engine of the tests' own."""
    require_engine()
    with DockerEngine() as engine:
        yield engine


@contextlib.contextmanager
def container(engine: DockerEngine, name: str, command: str, **options: Any) -> Iterator[Container]:
    """Run a command in a container until the end of the block."""
    made = engine.client.containers.run(
        IMAGE, ["sh", "-c", command], name=name, network_mode="host", detach=True, **options
    )
    try:
        yield made
    finally:
        remove(made)


def ask(engine: DockerEngine, name: str, *, later: float = 0.0) -> Report:
    """What the engine says of the container, as the diagnosis asks it."""
    service = ServiceSettings.model_validate(
        {"recovery": {"docker": {"host": engine.host, "container": name}}}
    )
    makers = sources_of("cart", service, KubernetesSettings(), ())
    return Inquiry(makers, at=time.time() + later, within=20.0).report()


def told(report: Report) -> str:
    return " ".join(fact.evidence.statement for fact in report.facts)


def cause_of(report: Report) -> Cause:
    """What the rules make of the engine's word alone, for an incident that opens now."""
    return analyze(seen(report), time.time())[0]


def seen(report: Report) -> Observations:
    return Observations(
        service="cart", depends_on=(), values={}, at=time.time(), thresholds=Thresholds(), report=report
    )


def until_ended(made: Container) -> None:
    wait_until("the container ends", lambda: not _state(made)["Running"], 30.0)


def _state(made: Container) -> Any:
    made.reload()
    return made.attrs["State"]


def test_a_container_killed_for_its_memory_is_an_exhausted_resource(engine: DockerEngine) -> None:
    """A real kill by the kernel at a real limit: exit code 137, the limit told, high confidence."""
    with container(engine, "hungry", EATS_MEMORY, mem_limit=MEMORY, memswap_limit=MEMORY) as made:
        until_ended(made)
        report = ask(engine, "hungry")
    assert "ended with code 137, SIGKILL: it was out of memory (limit 16 MiB)." in told(report)
    assert report.missing == ()
    cause = cause_of(report)
    assert cause.pattern is Pattern.RESOURCE_EXHAUSTION
    assert cause.confidence >= 0.9
    assert cause.evidence[0].query == f"docker --host {engine.host} inspect hungry"
    found = classify(seen(report), ())
    assert found.failure_class is FailureClass.SERVICE_FAILURE
    assert found.evidence


def test_a_kill_for_memory_is_told_after_the_restart_policy_has_hidden_it(engine: DockerEngine) -> None:
    """The container runs again when we look: only the engine's events still know."""
    once = f"test -e /tmp/seen && exec sleep 1000; echo > /tmp/seen; {EATS_MEMORY}"
    options = {"mem_limit": MEMORY, "memswap_limit": MEMORY, "restart_policy": {"Name": "always"}}
    with container(engine, "again", once, **options) as made:
        wait_until(
            "it runs again",
            lambda: (
                bool(engine.events("oom", str(made.id))) and len(engine.events("start", str(made.id))) > 1
            ),
            30.0,
        )
        report = ask(engine, "again")
    assert "ran out of memory once within the last hour (limit 16 MiB), and was killed for it." in told(
        report
    )
    assert cause_of(report).pattern is Pattern.RESOURCE_EXHAUSTION
    assert any("events --since 1h" in fact.evidence.query for fact in report.facts)


def test_a_kill_that_is_not_the_kernels_is_no_want_of_memory(engine: DockerEngine) -> None:
    """The same exit code 137 from a SIGKILL by hand."""
    with container(engine, "killed", "exec sleep 1000") as made:
        made.kill("SIGKILL")
        until_ended(made)
        report = ask(engine, "killed")
    assert "ended with code 137, SIGKILL." in told(report)
    assert not [fact for fact in report.facts if Pattern.RESOURCE_EXHAUSTION in fact.supports]


@pytest.mark.parametrize("policy", ["no", "unless-stopped"])
def test_who_stops_a_container_is_no_error_of_its_code(engine: DockerEngine, policy: str) -> None:
    """Many programs answer SIGTERM with exit code 1."""
    command = "trap 'exit 1' TERM; while true; do sleep 0.1; done"
    with container(engine, "stopped", command, restart_policy={"Name": policy}) as made:
        made.stop(timeout=5)
        report = ask(engine, "stopped")
    assert "Somebody has stopped container stopped: it did not end by itself." in told(report)
    assert not [fact for fact in report.facts if Pattern.CODE_BUG in fact.supports]


def test_an_error_of_the_program_is_one_after_its_rollout(engine: DockerEngine) -> None:
    """Exit code 1 of a container that was created a moment ago: its code or its settings, and the change."""
    with container(engine, "faulty", "sleep 0.2; exit 1") as made:
        until_ended(made)
        report = ask(engine, "faulty")
    (change,) = report.changes
    assert (change.service, change.kind) == ("cart", ChangeKind.ROLLOUT)
    assert f"created from {IMAGE}" in change.what
    assert change.source == "docker"
    assert time.time() - change.at < 60
    cause, others = analyze(seen(report), time.time())
    assert {cause.pattern, others[0].pattern} == {Pattern.CODE_BUG, Pattern.CONFIGURATION_ERROR}
    assert cause.confidence > 0.5
    assert any("was created from" in evidence.statement for evidence in cause.evidence)


def test_a_command_that_does_not_exist_is_a_setting(engine: DockerEngine) -> None:
    """Exit code 127."""
    with container(engine, "misspelt", "serve-the-shop") as made:
        until_ended(made)
        report = ask(engine, "misspelt")
    assert cause_of(report).pattern is Pattern.CONFIGURATION_ERROR


def test_a_crash_loop_is_counted(engine: DockerEngine) -> None:
    """What the restart policy starts again and again has ended as often, with its code."""
    with container(engine, "looping", "exit 3", restart_policy={"Name": "on-failure"}) as made:
        wait_until("it has ended a few times", lambda: len(engine.events("die", str(made.id))) >= 4, 30.0)
        report = ask(engine, "looping")
    assert "times within the last hour, with code 3." in told(report)


def test_a_failing_health_probe_is_told_in_its_own_words(engine: DockerEngine) -> None:
    """It answers nothing of use: unhealthy, with what the last probe said."""
    probe = {
        "test": ["CMD-SHELL", "echo 'queue is \x1b[31mfull'; exit 1"],
        "interval": 200_000_000,
        "timeout": 2_000_000_000,
        "retries": 2,
    }
    with container(engine, "sick", "exec sleep 1000", healthcheck=probe) as made:
        wait_until(
            "it is unhealthy", lambda: _state(made).get("Health", {}).get("Status") == "unhealthy", 30.0
        )
        report = ask(engine, "sick")
    assert "is unhealthy after" in told(report)
    assert "the last one: queue is [31mfull." in told(report)
    assert classify(seen(report), ()).failure_class is FailureClass.DEGRADATION


def test_a_restart_on_demand_is_a_change(engine: DockerEngine) -> None:
    """Nobody has to say so: the engine does."""
    with container(engine, "restarted", "exec sleep 1000") as made:
        made.restart(timeout=0)
        report = ask(engine, "restarted")
    assert [change.kind for change in report.changes] == [ChangeKind.ROLLOUT, ChangeKind.RESTART]


def test_a_container_that_runs_well_speaks_for_nothing(engine: DockerEngine) -> None:
    """And what happened more than an hour ago is left out."""
    with container(engine, "well", "exec sleep 1000"):
        report = ask(engine, "well")
        later = ask(engine, "well", later=7200)
    assert "has been running for" in told(report)
    assert not any(fact.supports for fact in report.facts)
    assert Condition.DOWN not in {fact.condition for fact in report.facts}
    assert later.changes == ()


def test_a_container_that_is_not_there_is_missing(engine: DockerEngine) -> None:
    """Nor does one count whose id only begins like the name."""
    with container(engine, "there", "exec sleep 1000") as made:
        prefix = str(made.id)[:3]
        assert ask(engine, prefix).missing == (
            f"docker: no container is called {prefix}; there only has an id that begins so",
        )
    assert ask(engine, "nobody").missing == ("docker: no container is called nobody",)


@engine_away
def test_an_engine_that_is_away_is_missing() -> None:
    """Why the evidence is not there is part of the diagnosis."""
    away = ServiceSettings.model_validate(
        {"recovery": {"docker": {"host": "unix:///nowhere.sock", "container": "cart"}}}
    )
    makers = sources_of("cart", away, KubernetesSettings(), ())
    (missing,) = Inquiry(makers, at=time.time(), within=5.0).report().missing
    assert missing.startswith("docker: the engine at unix:///nowhere.sock cannot be asked")
    gc.collect()


@engine_away
def test_an_engine_that_hangs_does_not_keep_the_diagnosis(engine: DockerEngine) -> None:
    """It is stopped in the middle; the diagnosis goes on after its time, and the threads end."""
    with container(engine, "hangs", "exec sleep 1000"):
        engine.signal(signal.SIGSTOP)
        try:
            service = {"recovery": {"docker": {"host": engine.host, "container": "hangs"}}}
            makers = sources_of("cart", ServiceSettings.model_validate(service), KubernetesSettings(), ())
            report = within_deadline(Inquiry(makers, at=time.time(), within=1.0).report)
            assert len(report.missing) == 1
            wait_until("the thread ends", lambda: not asking_threads(), 10.0)
        finally:
            engine.signal(signal.SIGCONT)
    gc.collect()


def asking_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("shf-source")]
