"""Plugins are found by entry points, used only by name, and cannot take a built-in one's place."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from plugin_packages import write_package
from self_healing_fabric.check import run_checks
from self_healing_fabric.cli import main
from self_healing_fabric.configuration import load_settings
from self_healing_fabric.errors import ConfigurationError
from self_healing_fabric.extensions import BUILT_IN, PluginUnusable, load
from self_healing_fabric.recovery.strategies import strategies
from self_healing_fabric.settings import Settings

STRATEGY = """
    from pydantic import BaseModel, ConfigDict

    class Options(BaseModel):
        model_config = ConfigDict(extra="forbid")
        url: str
        tries: int = 1

    class Flush:
        Options = Options
        disruptive = False

        def __init__(self, settings, options):
            self.options = options

        def on(self, service):
            raise RuntimeError("not reached")
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "shf.yaml"
    path.write_text(text)
    return path


def problems(path: Path) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        load_settings(path)
    return [str(problem) for problem in caught.value.problems]


def test_a_strategy_is_planned_by_name_with_its_options(packages: Path, tmp_path: Path) -> None:
    """The plan accepts its name, and the plugin gets its options as its own model made them."""
    write_package(packages, STRATEGY, {"strategies": {"flush": "Flush"}})
    settings = load_settings(
        written(
            tmp_path,
            "plans: {degradation: [flush, restart]}\nplugins: {strategies: {flush: {url: x, tries: '3'}}}\n",
        )
    )
    made = strategies(settings)["flush"]
    assert (made.name, made.disruptive) == ("flush", False)
    assert made._strategy.options.tries == 3  # type: ignore[attr-defined]


def test_every_mistake_is_told_by_its_path(packages: Path, tmp_path: Path) -> None:
    """Unknown plugins, unknown and missing options, each where it stands, all at once."""
    write_package(packages, STRATEGY, {"strategies": {"flush": "Flush"}})
    text = """
        plans: {degradation: [flsh]}
        plugins:
          strategies: {flush: {trys: 3}}
          guardrails: {tides: {}}
        services:
          cart:
            evidence_sources: {journal: {}}
            recovery: {platform: {nomad: {}}}
    """
    found = problems(written(tmp_path, text))
    assert [each.partition(": ")[0] for each in found] == [
        "plans.degradation.0",
        "plugins.guardrails.tides",
        "plugins.strategies.flush.trys",
        "plugins.strategies.flush.url",
        "services.cart.evidence_sources.journal",
        "services.cart.recovery.platform.nomad",
    ]
    assert "no strategy is called so; built in or installed: retry, restart," in found[0]
    assert "flush" in found[0]
    assert "unknown setting" in found[2]


def test_options_that_a_planned_strategy_needs_are_asked_for(packages: Path, tmp_path: Path) -> None:
    """A plan alone is not enough for a plugin that must be told something."""
    write_package(packages, STRATEGY, {"strategies": {"flush": "Flush"}})
    (found,) = problems(written(tmp_path, "plans: {degradation: [flush]}\n"))
    assert found == "plugins.strategies.flush.url: Field required"


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("import does_not_exist", "cannot be imported: ModuleNotFoundError"),
        ("raise SystemExit(4)", "cannot be imported: SystemExit"),
        ("def broken(:", "cannot be imported: SyntaxError"),
        ("Flush = 3", "names 3, which cannot be called"),
        ("class Flush:\n    Options = 4", "is no pydantic model"),
    ],
)
def test_one_that_cannot_be_used_is_a_configuration_error(
    packages: Path, tmp_path: Path, source: str, told: str
) -> None:
    """Told with the package and its version, exit status 2, no traceback; only when it is used."""
    write_package(packages, source, {"strategies": {"flush": "Flush"}})
    load_settings(written(tmp_path, "listen: 127.0.0.1:9931\n"))
    path = written(tmp_path, "plans: {degradation: [flush]}\n")
    answer = CliRunner().invoke(main, ["check", "--config", str(path)])
    assert answer.exit_code == 2
    assert told in answer.output
    assert "plugins.strategies.flush" in answer.output
    assert "Traceback" not in answer.output


def test_a_factory_that_raises_or_hangs_is_a_configuration_error(packages: Path) -> None:
    """The fabric does not start with half of what was asked for."""
    write_package(packages, "def Flush(settings, options):\n    1 / 0", {"strategies": {"flush": "Flush"}})
    settings = Settings(plans={"degradation": ("flush",)})
    with pytest.raises(ConfigurationError, match=r"plugins.strategies.flush: plugin flush raised ZeroDiv"):
        strategies(settings)


@pytest.mark.parametrize(
    ("group", "named", "told"),
    [
        ("strategies", {"plans": {"degradation": ["odd"]}}, "no method on"),
        ("guardrails", {"plugins": {"guardrails": {"odd": {}}}}, "no method check"),
        ("event_sinks", {"plugins": {"event_sinks": {"odd": {}}}}, "no method send"),
        (
            "channels",
            {"escalation": {"channels": {"human": {"plugin": {"odd": {}}}}}},
            "no method send and no check",
        ),
    ],
)
@pytest.mark.parametrize("makes", ["return None", "1 / 0"])
def test_what_a_plugin_does_not_make_is_found_before_it_is_needed(
    packages: Path, tmp_path: Path, group: str, named: dict[str, object], told: str, makes: str
) -> None:
    """`shf check` says so, and the fabric does not start: a channel of nothing would reach nobody."""
    write_package(packages, f"def odd(settings, options):\n    {makes}", {group: {"odd": "odd"}})
    settings = {"store": f"sqlite:///{tmp_path}/shf.db", "prometheus": {"url": "http://127.0.0.1:1"}, **named}
    path = written(tmp_path, yaml.safe_dump(settings))
    told = told if makes == "return None" else "odd raised ZeroDivisionError"
    for command in ("check", "serve"):
        answer = CliRunner().invoke(main, [command, "--config", str(path)])
        assert isinstance(answer.exception, SystemExit), answer.exception
        assert answer.exit_code
        assert told in answer.output


def test_a_built_in_one_cannot_be_replaced(packages: Path) -> None:
    """`restart` stays ours; `shf check` says that the other one is never used."""
    write_package(packages, STRATEGY, {"strategies": {"restart": "Flush"}, "guardrails": {"mode": "Flush"}})
    assert type(strategies(Settings())["restart"]).__name__ == "OnPlatform"
    findings = [each for each in run_checks(Settings()) if each.subject.startswith("plugin ")]
    assert [(each.subject, each.ok) for each in findings] == [
        ("plugin strategies/restart", False),
        ("plugin guardrails/mode", False),
    ]
    assert "acme 2.1 is never used: restart is built in" in findings[0].message
    with pytest.raises(PluginUnusable):
        load("guardrails", "mode")


def test_one_name_from_two_packages_is_refused_when_used(packages: Path) -> None:
    """Which of them would be used must not depend on the order of a directory."""
    write_package(packages, STRATEGY, {"strategies": {"flush": "Flush"}})
    write_package(packages, STRATEGY, {"strategies": {"flush": "Flush"}}, name="other")
    with pytest.raises(PluginUnusable, match="brought by acme and other: uninstall one"):
        load("strategies", "flush")


def test_check_lists_what_is_installed_and_imports_only_what_is_used(packages: Path, tmp_path: Path) -> None:
    """Names, packages, versions; a plugin that nobody named has not run a line of code."""
    write_package(packages, STRATEGY, {"strategies": {"flush": "Flush"}, "channels": {"pager": "Pager"}})
    path = written(
        tmp_path, f"store: sqlite:///{tmp_path}/shf.db\nprometheus: {{url: 'http://127.0.0.1:1'}}\n"
    )
    answer = CliRunner().invoke(main, ["check", "--config", str(path), "--json"])
    findings = {each["subject"]: each["message"] for each in json.loads(answer.output)}
    assert findings["plugin strategies/flush"] == "acme 2.1, not named in the configuration, so not used"
    assert findings["plugin channels/pager"] == "acme 2.1, not named in the configuration, so not used"
    assert "shf_acme" not in sys.modules
    path.write_text(path.read_text() + "plugins: {strategies: {flush: {url: x}}}\n")
    answer = CliRunner().invoke(main, ["check", "--config", str(path), "--json"])
    findings = {each["subject"]: each["message"] for each in json.loads(answer.output)}
    assert findings["plugin strategies/flush"] == "acme 2.1, used"


def test_reserved_names_are_those_that_exist() -> None:
    """The strategies that are built in, and `undo`, are exactly the reserved ones."""
    assert set(BUILT_IN["strategies"]) == {*strategies(Settings()), "undo"}
