"""The rules and the route, run by the servers' own checkers: alert_rules/tests holds the scenarios."""

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from rule_files import FILES, HEALED, RULES, SIGNAL_OF_ALERT, alerts, tool


@pytest.mark.parametrize(("ci", "outcome"), [("true", pytest.fail.Exception), ("", pytest.skip.Exception)])
def test_rules_are_never_left_unchecked_in_silence(
    ci: str, outcome: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without promtool the scenarios cannot run: CI fails, a person is told."""
    monkeypatch.setenv("CI", ci)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(outcome, match="NOT checked by Prometheus itself"):
        tool("promtool")


def scenario_files() -> list[Path]:
    return sorted((RULES / "tests").glob("*_test.yml"))


@pytest.mark.parametrize("path", scenario_files(), ids=lambda path: path.stem)
def test_the_rules_behave(path: Path, promtool: str) -> None:
    """alert_rules/tests holds the scenarios: what fires, what does not, and the boundary between."""
    done = subprocess.run(
        [promtool, "test", "rules", path.name], cwd=path.parent, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def checks() -> Iterator[dict[str, Any]]:
    """What promtool compares of alerts, in all scenarios."""
    for path in scenario_files():
        for scenario in yaml.safe_load(path.read_text(encoding="utf-8"))["tests"]:
            yield from scenario.get("alert_rule_test", [])


@pytest.mark.parametrize("name", SIGNAL_OF_ALERT)
def test_every_alert_is_seen_to_fire_and_not_to_fire(name: str) -> None:
    """A rule that never fires passes every test of silence, one that always fires every test of alarm."""
    expected = {True} if name == "ShfWatchdog" else {True, False}
    assert {bool(check.get("exp_alerts")) for check in checks() if check["alertname"] == name} == expected


@pytest.mark.parametrize("name", SIGNAL_OF_ALERT)
def test_every_annotation_is_rendered_in_a_scenario(name: str, shipped: dict[str, str]) -> None:
    """A template that fails writes its error where the number should be; promtool compares the text."""
    fired = [
        alert for check in checks() if check["alertname"] == name for alert in check.get("exp_alerts", [])
    ]
    for alert in fired:
        assert set(alert["exp_annotations"]) == set(alerts(shipped)[name]["annotations"])
    assert fired


@pytest.mark.parametrize("name", FILES)
def test_every_rule_file_has_scenarios(name: str) -> None:
    """A file that no scenario loads would only be parsed."""
    loaded = {
        rule_file
        for path in scenario_files()
        for rule_file in yaml.safe_load(path.read_text(encoding="utf-8"))["rule_files"]
    }
    assert f"../{name}" in loaded


def test_the_shipped_prometheus_configuration_is_valid(promtool: str) -> None:
    done = subprocess.run(
        [promtool, "check", "config", RULES / "prometheus.yml"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(FILES)} rule files found" in done.stdout


def test_the_shipped_alertmanager_configuration_is_valid(amtool: str) -> None:
    done = subprocess.run(
        [amtool, "check-config", RULES / "alertmanager.yml"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", SIGNAL_OF_ALERT)
def test_the_fabric_gets_the_signals_and_people_get_all_else(
    name: str, shipped: dict[str, str], amtool: str
) -> None:
    """Asked of Alertmanager itself: what no restart cures, or is said of the monitoring, is for people."""
    labels = [f"{key}={value}" for key, value in alerts(shipped)[name]["labels"].items()]
    command = [
        amtool,
        "config",
        "routes",
        "test",
        f"--config.file={RULES / 'alertmanager.yml'}",
        f"alertname={name}",
    ]
    done = subprocess.run([*command, *labels], capture_output=True, text=True, check=True)
    healed = SIGNAL_OF_ALERT[name] in HEALED
    pages = {"ShfServiceFailing", "ShfServiceUnhealed"}
    people = "pager" if name in pages else "watchdog" if name == "ShfWatchdog" else "people"
    expected = "self-healing-fabric" if healed else people
    assert done.stdout.strip() == expected


def test_the_route_is_fit_for_a_healer() -> None:
    """Each value was measured; alertmanager.yml says why."""
    config = yaml.safe_load((RULES / "alertmanager.yml").read_text(encoding="utf-8"))
    route = config["route"]["routes"][0]
    (webhook,) = next(r for r in config["receivers"] if r["name"] == "self-healing-fabric")["webhook_configs"]
    assert (route["receiver"], route["group_wait"], route["continue"]) == ("self-healing-fabric", "0s", True)
    assert webhook["url"] == "http://127.0.0.1:9931/api/v1/alerts"
    assert webhook["send_resolved"] is True
    assert webhook["http_config"]["follow_redirects"] is False
    assert "max_alerts" not in webhook
