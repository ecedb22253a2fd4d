"""The mode: the kill switch stops every effect, and stays on across restarts."""

import re
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from self_healing_fabric import guardrails
from self_healing_fabric.guardrails import Proposal, mode
from self_healing_fabric.integration.lifecycle import Fabric
from self_healing_fabric.settings import Mode, Settings
from self_healing_fabric.store import Store, statements


def current(store: Store, configured: Mode = Mode.AUTOMATIC) -> Mode:
    """The mode in force."""
    settings, unstored = Settings(mode=configured), mode.UnstoredPauses()
    return store.read(lambda connection: mode.current(connection, settings, unstored))


def change(store: Store, new: Mode) -> None:
    """Set the mode."""
    store.write(lambda connection: mode.change(connection, new, by="ada", now=5.0))


@pytest.mark.parametrize("configured", Mode)
def test_the_configured_mode_holds_until_a_person_sets_one(store: Store, configured: Mode) -> None:
    """What a person set wins over the file."""
    assert current(store, configured) is configured
    change(store, Mode.PAUSED)
    assert current(store, configured) is Mode.PAUSED


def test_a_pause_in_the_file_that_a_person_has_overruled_is_logged_at_the_start(tmp_path: Path) -> None:
    """Whoever pauses by the configuration must not believe it; what people made stricter needs no word."""
    settings = Settings(
        store=f"sqlite:///{tmp_path}/shf.db",
        prometheus={"url": "http://127.0.0.1:1"},
        mode=Mode.PAUSED,
        services={"cart": {"mode": "approval"}, "db": {"mode": "approval"}, "mail": {"mode": "paused"}},
        strategy_modes={"restart": Mode.DRY_RUN},
    )
    fabric = Fabric(settings)
    set_: tuple[tuple[Mode, dict[str, str]], ...] = (
        (Mode.AUTOMATIC, {}),
        (Mode.AUTOMATIC, {"service": "cart"}),
        (Mode.PAUSED, {"service": "db"}),
        (Mode.APPROVAL, {"strategy": "restart"}),
    )
    for new, scope in set_:
        fabric.store.write(lambda c, n=new, s=scope: mode.change(c, n, by="ada", now=5.0, **s))
    with capture_logs() as logged:
        fabric.start()
        fabric.stop()
    told = [each for each in logged if each["event"] == "configured_mode_not_in_force"]
    assert [(each["control"], each["configured"], each["set_by_people"]) for each in told] == [
        ("mode", "paused", "automatic"),
        ("mode of service cart", "approval", "automatic"),
        ("mode of strategy restart", "dry_run", "approval"),
    ]


@pytest.mark.parametrize("disruptive", [True, False])
@pytest.mark.parametrize("new", Mode)
def test_only_paused_refuses_and_it_refuses_everything(store: Store, new: Mode, disruptive: bool) -> None:
    """While paused not even a probe goes out; the refusal asks again soon."""
    change(store, new)
    proposal = Proposal("cart", "restart", "docker:cart", disruptive, 100.0)
    refusal = store.write(lambda connection: guardrails.check(connection, proposal, Settings()))
    if new is not Mode.PAUSED:
        assert refusal is None
        return
    assert refusal is not None
    assert refusal.guardrail == "mode"
    assert refusal.retry_at is not None


def test_a_configuration_that_is_paused_refuses(store: Store) -> None:
    """The switch can be on from the first start."""
    proposal = Proposal("cart", "restart", "docker:cart", True, 100.0)
    settings = Settings(mode=Mode.PAUSED)
    assert store.write(lambda connection: guardrails.check(connection, proposal, settings)) is not None


def test_a_restored_copy_begins_paused_as_documented(store: Store) -> None:
    """What people had set before the copy was made would go before the configured pause."""
    change(store, Mode.AUTOMATIC)
    assert current(store, Mode.PAUSED) is Mode.AUTOMATIC
    page = (Path(__file__).parents[3] / "docs" / "store.md").read_text(encoding="utf-8")
    (statement,) = re.findall(r"`(DELETE FROM controls[^`]+)`", page)
    store.write(lambda connection: connection.exec_driver_sql(statement))
    assert current(store, Mode.PAUSED) is Mode.PAUSED


def test_the_mode_survives_a_restart_with_who_set_it(url: str, store: Store) -> None:
    """A pause must not end because the process was restarted."""
    change(store, Mode.APPROVAL)
    change(store, Mode.PAUSED)
    store.close()
    again = Store(url)
    row = again.read(lambda connection: statements.control(connection, mode.CONTROL))
    kept = current(again)
    again.close()
    assert kept is Mode.PAUSED
    assert row is not None
    assert (row.changed_by, row.changed_at) == ("ada", 5.0)


def test_a_mode_that_nobody_knows_allows_nothing(store: Store) -> None:
    """A value from a newer version, or from a shell, is an error and not `automatic`."""
    store.write(lambda c: statements.set_control(c, name=mode.CONTROL, value="turbo", by="x", now=1.0))
    proposal = Proposal("cart", "restart", "docker:cart", True, 100.0)
    with pytest.raises(ValueError, match="turbo"):
        store.write(lambda connection: guardrails.check(connection, proposal, Settings()))
