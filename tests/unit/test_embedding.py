"""The fabric in another program: it comes and goes, leaves nothing behind, and asks the program's objects."""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
from werkzeug.test import Client

import self_healing_fabric
from self_healing_fabric import HealingIntegration
from self_healing_fabric.errors import ConfigurationError, ShfError, StoreInUse
from self_healing_fabric.guardrails import Proposal
from self_healing_fabric.integration.collaborators import (
    Component,
    IncidentReader,
    LocalBus,
    LocalRegistry,
    NotActive,
    Phase,
)
from self_healing_fabric.orchestration.validation import ClaimedHealing
from self_healing_fabric.settings import ServiceSettings, Settings
from shf_demo.ports import reserved_ports

HEALTH = "http://127.0.0.1:1/health"
PROPOSAL = Proposal("cart", "restart", "http:cart", True, 1_800_000_000.0)


@pytest.fixture
def values(tmp_path: Path) -> Iterator[dict[str, Any]]:
    """A configuration on a free port, with a Prometheus that does not answer."""
    with reserved_ports(1) as (port,):
        yield {
            "listen": f"127.0.0.1:{port}",
            "store": f"sqlite:///{tmp_path}/shf.db",
            "prometheus": {"url": "http://127.0.0.1:1"},
        }


@pytest.fixture
def make(values: dict[str, Any]) -> Iterator[Callable[..., HealingIntegration]]:
    """Integrations that are stopped after the test, whatever happens."""
    made: list[HealingIntegration] = []

    def new(**arguments: Any) -> HealingIntegration:
        made.append(HealingIntegration(**{"settings": values, **arguments}))
        return made[-1]

    yield new
    for integration in made:
        integration.stop()


def get(values: Mapping[str, Any], path: str) -> httpx.Response:
    return httpx.get(f"http://{values['listen']}{path}", timeout=10, trust_env=False)


class Manager:
    """A lifecycle manager that remembers, and may stop the fabric at once."""

    def __init__(self) -> None:
        self.component: Component | None = None
        self.phases: list[Phase] = []
        self.threads: set[int] = set()
        self.stop_at_once = False

    def attach(self, component: Component) -> None:
        self.component = component

    def told(self, phase: Phase) -> None:
        self.phases.append(phase)
        self.threads.add(threading.get_ident())
        if phase is Phase.ACTIVE and self.stop_at_once:
            assert self.component is not None
            self.component.stop()


def test_as_its_first_user_calls_it(values: dict[str, Any], make: Callable[..., HealingIntegration]) -> None:
    """All eight by name; register, activate, ask over HTTP and in the program, deactivate."""

    class Anything:
        def services(self) -> dict[str, Any]:
            return {}

        def publish(self, event: Any) -> None: ...

        def connect(self, incidents: Any) -> None: ...

        def attach(self, component: Any) -> None: ...

        def told(self, phase: Any) -> None: ...

        def allows(self, proposal: Any) -> bool:
            return True

        def confirms(self, healing: Any) -> bool:
            return True

    anything = Anything()

    async def program() -> None:
        integration = make(
            module_registry=anything,
            event_bus=anything,
            system_state=anything,
            lifecycle_manager=anything,
            boundary_enforcer=anything,
            validation_gate=anything,
            guardian_health_endpoints={"guardian-five": HEALTH},
            guard_health_endpoints={"tokenguard": HEALTH},
        )
        integration.register()
        await integration.activate()
        assert integration.get_status()["phase"] == "active"
        assert integration.get_status()["orchestrator"] == "running"
        answer = await asyncio.to_thread(get, values, "/readyz")
        assert answer.status_code == 200
        await integration.deactivate()
        assert integration.get_status()["phase"] == "stopped"

    asyncio.run(program())
    with pytest.raises(httpx.ConnectError):
        get(values, "/readyz")


def test_nothing_is_left_behind(make: Callable[..., HealingIntegration]) -> None:
    """No thread, no signal handler, and the store can be opened again."""
    handlers = {each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)}
    before = set(threading.enumerate())
    integration = make()
    for _ in range(2):
        integration.start()
        assert {each: signal.getsignal(each) for each in handlers} == handlers
        integration.stop()
    assert set(threading.enumerate()) - before == set()


def test_both_ways_are_idempotent(make: Callable[..., HealingIntegration]) -> None:
    """Twice is once, also when ten threads do it at the same time."""
    manager = Manager()
    integration = make(lifecycle_manager=manager)
    threads = [threading.Thread(target=integration.start) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    async def twice() -> None:
        await integration.activate()
        await integration.deactivate()
        await integration.deactivate()

    asyncio.run(twice())
    assert manager.phases == [Phase.STARTING, Phase.ACTIVE, Phase.DRAINING, Phase.STOPPED]


def test_the_loop_is_never_blocked(make: Callable[..., HealingIntegration]) -> None:
    """Activation and deactivation work in other threads: the loop's own turns go on meanwhile."""
    manager = Manager()
    integration = make(lifecycle_manager=manager)

    async def program() -> int:
        turns = 0

        async def tick() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        ticking = asyncio.create_task(tick())
        await integration.activate()
        await integration.deactivate()
        ticking.cancel()
        return turns

    assert asyncio.run(program()) > 100
    assert threading.get_ident() not in manager.threads


def test_a_cancelled_activation_leaves_nothing_active(make: Callable[..., HealingIntegration]) -> None:
    """Who takes the start back wants no healer left behind."""
    integration = make()

    async def program() -> None:
        activating = asyncio.create_task(integration.activate())
        await asyncio.sleep(0)
        activating.cancel()
        with pytest.raises(asyncio.CancelledError):
            await activating

    asyncio.run(program())
    assert integration.get_status() == {"phase": "stopped", "version": self_healing_fabric.__version__}


def test_the_manager_may_stop_it(make: Callable[..., HealingIntegration]) -> None:
    """It holds the component, and may use it from inside of what it is told."""
    manager = Manager()
    manager.stop_at_once = True
    integration = make(lifecycle_manager=manager)
    integration.start()
    assert integration.get_status()["phase"] == "stopped"
    assert manager.phases[-1] is Phase.STOPPED


def test_two_on_one_store_are_told_apart(
    make: Callable[..., HealingIntegration], values: dict[str, Any]
) -> None:
    """The second one does not start, says why, and harms nothing."""
    first, manager = make(), Manager()
    first.start()
    with reserved_ports(1) as (port,):
        second = make(settings={**values, "listen": f"127.0.0.1:{port}"}, lifecycle_manager=manager)
        with pytest.raises(StoreInUse, match="another fabric uses this store, in this process or another"):
            second.start()
    assert manager.phases == [Phase.STARTING, Phase.FAILED]
    assert get(values, "/readyz").status_code == 200


def test_an_address_in_use_is_a_sentence_and_frees_the_store(
    make: Callable[..., HealingIntegration], values: dict[str, Any]
) -> None:
    """What was opened before the failure is closed again."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        values["listen"] = f"127.0.0.1:{taken.getsockname()[1]}"
        integration = make()
        with pytest.raises(ShfError, match=r"cannot listen on 127\.0\.0\.1:\d+"):
            integration.start()
    integration.start()
    assert get(values, "/readyz").status_code == 200


def test_services_of_the_program_are_merged_with_the_configuration(
    make: Callable[..., HealingIntegration], values: dict[str, Any]
) -> None:
    """Fields that a person wrote win; what the program alone knows is added; Prometheus discovers all."""
    registry = LocalRegistry()
    registry.add(
        "cart", {"health": "http://127.0.0.1:1/program", "tier": "low", "metrics": "http://127.0.0.1:1/m"}
    )
    registry.add("till", ServiceSettings(health="http://127.0.0.1:1/till", depends_on=("cart",)))
    values["services"] = {"cart": {"health": "http://127.0.0.1:1/person"}, "mill": {}}
    integration = make(
        module_registry=registry,
        guardian_health_endpoints={"guardian-five": HEALTH},
        guard_health_endpoints={"tokenguard": HEALTH},
    )
    integration.start()
    services = integration.settings.services
    assert set(services) == {"cart", "till", "mill", "guardian-five", "tokenguard"}
    assert services["cart"].health == "http://127.0.0.1:1/person"
    assert services["cart"].tier == "low"
    assert services["till"].depends_on == ("cart",)
    assert (services["guardian-five"].kind, services["tokenguard"].kind) == ("guardian", "guard")
    probed = get(values, "/api/v1/targets?check=probe").json()
    assert {each["labels"]["service"] for each in probed} == {"cart", "till", "guardian-five", "tokenguard"}
    (scraped,) = get(values, "/api/v1/targets").json()
    assert scraped["labels"]["service"] == "cart"


def test_mistakes_are_told_by_their_path(make: Callable[..., HealingIntegration], tmp_path: Path) -> None:
    """Those of the file, of the registry and of the endpoints, all at once."""
    registry = LocalRegistry()
    registry.add("till", {"depends_on": ["cat"]})
    path = tmp_path / "shf.yaml"
    path.write_text("services: {cart: {teir: low}}\n")
    integration = make(
        settings=None,
        configuration=path,
        module_registry=registry,
        guardian_health_endpoints={"guardian-five": "nowhere"},
    )
    with pytest.raises(ConfigurationError) as caught:
        integration.register()
    paths = [problem.path for problem in caught.value.problems]
    assert paths == ["services.cart.teir", "services.guardian-five.health", "services.till.depends_on.0"]


def test_guardian_or_guard(make: Callable[..., HealingIntegration]) -> None:
    """One name has one kind."""
    both = {"five": HEALTH}
    with pytest.raises(ConfigurationError, match=r"services\.five: is among the guardian and the guard"):
        make(guardian_health_endpoints=both, guard_health_endpoints=both).register()
    with pytest.raises(ConfigurationError, match="settings or a file, not both"):
        HealingIntegration(settings={}, configuration="shf.yaml")


def test_settings_may_be_given_whole(make: Callable[..., HealingIntegration], values: dict[str, Any]) -> None:
    """What was set stays set, what is a default stays one."""
    given = Settings(**values, mode="approval", services={"cart": {"tier": "critical"}})
    integration = make(settings=given, guardian_health_endpoints={"guardian-five": HEALTH})
    integration.register()
    assert integration.settings.mode == "approval"
    assert integration.settings.services["cart"].tier == "critical"
    assert integration.settings.store == values["store"]


def test_collaborators_may_be_coroutines(make: Callable[..., HealingIntegration]) -> None:
    """They run on the program's own loop, and their answer counts as any other."""

    class Asked:
        def __init__(self) -> None:
            self.threads: list[int] = []

        async def allows(self, proposal: Proposal) -> bool:
            await asyncio.sleep(0)
            self.threads.append(threading.get_ident())
            return proposal.service == "cart"

        async def confirms(self, healing: ClaimedHealing) -> bool:
            raise RuntimeError("not now")

    asked = Asked()

    async def program() -> None:
        integration = make(boundary_enforcer=asked, validation_gate=asked)
        await integration.activate()
        fabric = integration._fabric
        assert fabric is not None
        (bound,) = fabric.context.outside
        assert await asyncio.to_thread(bound.refusal_of, PROPOSAL) is None
        gate = fabric.context.gate
        assert gate is not None
        with pytest.raises(RuntimeError):
            await asyncio.to_thread(gate, ClaimedHealing("i", "cart", "", ()))
        await integration.deactivate()

    asyncio.run(program())
    assert asked.threads == [threading.get_ident()]
    # Without a loop, from a thread.
    integration = make(boundary_enforcer=asked)
    integration.start()
    fabric = integration._fabric
    assert fabric is not None
    assert fabric.context.outside[0].refusal_of(PROPOSAL) is None


def test_incidents_are_read_through_the_system_state(
    make: Callable[..., HealingIntegration], values: dict[str, Any]
) -> None:
    """The program's own object is given the reader, and told when it is over."""
    given: list[IncidentReader | None] = []

    class State:
        def connect(self, incidents: IncidentReader | None) -> None:
            given.append(incidents)

    integration = make(system_state=State())
    integration.start()
    body = {
        "version": "4", "status": "firing", "receiver": "r", "groupKey": "g", "groupLabels": {},
        "commonLabels": {}, "commonAnnotations": {}, "externalURL": "http://a", "truncatedAlerts": 0,
        "alerts": [{
            "status": "firing", "labels": {"alertname": "Down", "service": "nobody"}, "annotations": {},
            "startsAt": "2026-01-01T00:00:00Z", "endsAt": "0001-01-01T00:00:00Z",
            "generatorURL": "http://p", "fingerprint": "f1",
        }],
    }  # fmt: skip
    url = f"http://{values['listen']}/api/v1/alerts"
    assert httpx.post(url, json=body, timeout=10, trust_env=False).status_code == 202
    (reader,) = given
    assert reader is not None
    end = time.monotonic() + 30
    while not reader.open_incidents():
        assert time.monotonic() < end
        time.sleep(0.02)
    (incident,) = reader.open_incidents()
    assert reader.story(incident["id"])["alerts"][0]["fingerprint"] == "f1"
    integration.stop()
    assert given[1:] == [None]
    with pytest.raises(NotActive):
        reader.open_incidents()


def test_defaults_work(make: Callable[..., HealingIntegration]) -> None:
    """Without any collaborator: a registry, a bus and a state of its own."""
    integration = make()
    assert isinstance(integration.event_bus, LocalBus)
    with pytest.raises(NotActive):
        integration.system_state.open_incidents()  # type: ignore[attr-defined]
    with pytest.raises(NotActive):
        _ = integration.settings
    integration.start()
    assert integration.system_state.open_incidents() == []  # type: ignore[attr-defined]


def test_it_can_be_mounted(make: Callable[..., HealingIntegration], values: dict[str, Any]) -> None:
    """503 before and after, the API in between; nothing listens."""
    integration = make(serve=False)
    client = Client(integration.wsgi_app)
    here = {"REMOTE_ADDR": "127.0.0.1"}
    assert client.get("/readyz", environ_base=here).status_code == 503
    assert client.get("/readyz", environ_base=here).headers["Retry-After"]
    integration.start()
    assert client.get("/readyz", environ_base=here).status_code == 200
    assert client.get("/api/v1/status", environ_base=here).json["mode"] == "automatic"
    with pytest.raises(httpx.ConnectError):
        get(values, "/readyz")
    integration.stop()
    assert client.get("/readyz", environ_base=here).status_code == 503


@pytest.mark.parametrize(
    "environ",
    [
        {"REMOTE_ADDR": "10.0.0.7"},
        {"REMOTE_ADDR": ""},
        {"REMOTE_ADDR": "127.0.0.1", "HTTP_X_FORWARDED_FOR": "10.0.0.7"},
        {"REMOTE_ADDR": "127.0.0.1", "HTTP_FORWARDED": "for=10.0.0.7"},
    ],
)
def test_mounted_without_credentials_only_this_machine_may_call(
    make: Callable[..., HealingIntegration],
    values: dict[str, Any],
    tmp_path: Path,
    environ: dict[str, str],
) -> None:
    """A server of the program's may be reachable from anywhere, whatever `listen` says."""
    open_to_all = make(serve=False)
    open_to_all.start()
    assert Client(open_to_all.wsgi_app).get("/api/v1/mode", environ_base=environ).status_code == 403
    open_to_all.stop()
    token = tmp_path / "token"
    token.write_text("secret")
    guarded = make(serve=False, settings={**values, "auth": {"token_file": str(token)}})
    guarded.start()
    client = Client(guarded.wsgi_app)
    assert client.get("/api/v1/mode", environ_base=environ).status_code == 401
    header = {"Authorization": "Bearer secret"}
    assert client.get("/api/v1/mode", environ_base=environ, headers=header).status_code == 200


def test_a_registry_that_raises_is_told(make: Callable[..., HealingIntegration]) -> None:
    """As a sentence, before anything has started."""

    class Broken:
        def services(self) -> dict[str, Any]:
            raise KeyError("modules")

    with pytest.raises(ShfError, match="the module registry raised KeyError"):
        make(module_registry=Broken()).register()


def test_a_manager_that_raises_does_not_keep_the_fabric_from_stopping(
    make: Callable[..., HealingIntegration],
) -> None:
    """What the program makes of a phase is its own affair."""

    class Broken:
        def attach(self, component: Any) -> None:
            raise RuntimeError

        def told(self, phase: Phase) -> None:
            raise RuntimeError

    integration = make(lifecycle_manager=Broken())
    integration.start()
    integration.stop()
    assert integration.get_status()["phase"] == "stopped"


def test_naming_the_package_stays_cheap() -> None:
    """The name at the root is found without importing the service behind it."""
    code = "import sys, self_healing_fabric, self_healing_fabric.integration; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"flask", "sqlalchemy", "numpy", "pydantic"} & set(done.stdout.split())
