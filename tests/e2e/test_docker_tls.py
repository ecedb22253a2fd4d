"""A Docker engine over TLS, which takes orders only from whoever shows a certificate of its authority."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trustme
from docker_engine import IGNORES, DockerEngine, require_engine, wait_until

from cuttable_proxy import CuttableProxy
from one_step import INCIDENT, fabric_on, open_incident, step
from self_healing_fabric import outbound
from self_healing_fabric.check import run_checks
from self_healing_fabric.containers import command_of
from self_healing_fabric.diagnosis.sources.docker import DockerSource
from self_healing_fabric.recovery.effects import TargetAway
from self_healing_fabric.recovery.platforms.docker import DockerPlatform
from self_healing_fabric.settings import DockerRecovery, Settings
from self_healing_fabric.store import statements
from shf_demo.ports import free_ports

pytestmark = [pytest.mark.e2e, pytest.mark.docker]


@dataclass(frozen=True)
class Strict:
    """The engine, its port, and the files of a client that it lets in."""

    engine: DockerEngine
    port: int
    files: dict[str, Path]


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Strict]:
    """An engine with `--tlsverify`, and an authority that nobody else knows."""
    require_engine()
    folder, authority, (port,) = tmp_path_factory.mktemp("tls"), trustme.CA(), free_ports(1)
    authority.cert_pem.write_to_path(folder / "ca.crt")
    for name, leaf in (
        ("server", authority.issue_cert("127.0.0.1")),
        ("client", authority.issue_cert("shf")),
    ):
        (folder / f"{name}.crt").write_bytes(b"".join(each.bytes() for each in leaf.cert_chain_pems))
        leaf.private_key_pem.write_to_path(folder / f"{name}.key")
    options = [
        f"--host=tcp://127.0.0.1:{port}",
        "--tlsverify",
        f"--tlscacert={folder / 'ca.crt'}",
        f"--tlscert={folder / 'server.crt'}",
        f"--tlskey={folder / 'server.key'}",
    ]
    files = {"ca_file": "ca.crt", "cert_file": "client.crt", "key_file": "client.key"}
    with DockerEngine(options=options) as engine:
        yield Strict(engine, port, {name: folder / path for name, path in files.items()})


@pytest.fixture(autouse=True)
def nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process trusts and shows nothing of its own, before and after."""
    monkeypatch.setattr(outbound, "_own", outbound._Own())


def settings_of(host: str, container: str) -> DockerRecovery:
    """A container of that engine."""
    return DockerRecovery(container=container, host=host, stop_timeout=3)


def actions(context: Any) -> list[str]:
    """How the actions of the incident ended."""
    rows = context.store.read(lambda connection: statements.actions_of(connection, INCIDENT))
    return [row.status for row in rows]


def test_an_engine_over_tls_is_asked_and_told_with_the_fabrics_certificate(strict: Strict) -> None:
    """Restarted once, by the engine's own count; its evidence is found the same way."""
    outbound.trust(**strict.files)
    with strict.engine.web("far") as web:
        settings = settings_of(f"https://127.0.0.1:{strict.port}", "far")
        restart = DockerPlatform(settings).effect("restart")
        outcome = restart.perform(key="key", attempt=1, before=restart.snapshot(), permit=lambda: True)
        assert outcome.detail == "container far was restarted"
        assert DockerSource("far", settings).look(0.0, 10.0).missing == ()
        assert web.events("restart") == 1


def test_who_shows_no_certificate_is_told_what_to_name(strict: Strict, tmp_path: Path) -> None:
    """Neither a stranger's authority nor a missing certificate is passed over."""
    service = {"recovery": {"docker": {"host": f"https://127.0.0.1:{strict.port}", "container": "far"}}}
    settings = Settings.model_validate(
        {"store": f"sqlite:///{tmp_path}/shf.db", "services": {"far": service}}
    )

    def told() -> str:
        return " ".join(each.message for each in run_checks(settings) if str(strict.port) in each.message)

    assert "Name its authority as `ca_file`" in told()
    outbound.trust(strict.files["ca_file"])
    assert "It asks for a certificate: name yours as `cert_file` and `key_file`" in told()


def test_who_writes_tcp_is_told_of_https(strict: Strict) -> None:
    """As Docker itself writes it, which has a setting of its own for TLS."""
    with pytest.raises(TargetAway, match=r"it speaks TLS: let `recovery\.docker\.host` begin with https://"):
        DockerPlatform(settings_of(f"tcp://127.0.0.1:{strict.port}", "far")).check()
    command = f"docker --tlsverify --host tcp://127.0.0.1:{strict.port}"
    assert command_of(f"https://127.0.0.1:{strict.port}") == command


def test_a_connection_that_is_cut_amid_a_restart_restarts_once(strict: Strict, tmp_path: Path) -> None:
    """The engine goes on with it; it tells when the network is back, and is not told again."""
    outbound.trust(**strict.files)
    with (
        strict.engine.web("cut", on_term=IGNORES) as web,
        CuttableProxy(strict.port) as network,
        ThreadPoolExecutor(1) as pool,
    ):
        docker = settings_of(f"https://127.0.0.1:{network.port}", "cut").model_dump()
        values = {
            "store": f"sqlite:///{tmp_path}/shf.db",
            "guardrails": {"cooldown": 0},
            "services": {"cart": {"recovery": {"docker": docker}}},
        }
        with fabric_on(values) as context:
            open_incident(context, "restart", service="cart")
            stepped = pool.submit(step, context)
            wait_until("the engine stops the container", lambda: web.events("kill") > 0)
            network.refuse()
            stepped.result(timeout=30)
            assert actions(context) == ["started"]
        wait_until("the engine does what it was told", lambda: web.events("restart") == 1)
        network.forward()
        with fabric_on(values, later=120) as context:
            step(context)
            assert actions(context) == ["succeeded"]
        assert web.events("restart") == 1
