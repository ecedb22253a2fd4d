"""`shf escalation test` and `shf check`: what would not arrive at night is found by day."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from pytest_httpserver import HTTPServer

from self_healing_fabric.check import run_checks
from self_healing_fabric.cli import main
from self_healing_fabric.configuration import load_settings


@pytest.fixture
def configuration(httpserver: HTTPServer, tmp_path: Path) -> Path:
    """Level 1 calls a guardian that answers and one that is gone; `human` has no channel."""
    (tmp_path / "secret").write_text("0123456789abcdef")
    guardian = {"url": httpserver.url_for("/five"), "secret_file": str(tmp_path / "secret")}
    gone = {**guardian, "url": httpserver.url_for("/gone"), "secret_file": str(tmp_path / "missing")}
    levels = [{"name": f"l{n}", "call": ["five", "six", "human"] if n == 1 else []} for n in range(5)]
    channels = {"five": {"guardian": guardian}, "six": {"guardian": gone}}
    path = tmp_path / "shf.yaml"
    path.write_text(yaml.safe_dump({"escalation": {"levels": levels, "channels": channels}}))
    httpserver.expect_request("/five", method="POST").respond_with_json({"decision": "acknowledge"})
    return path


def run(path: Path, *options: str) -> Any:
    """Run the command."""
    return CliRunner().invoke(main, ["escalation", "test", "1", "--config", str(path), *options])


def test_everybody_of_a_level_gets_a_test_message(configuration: Path, httpserver: HTTPServer) -> None:
    """Each is told whether it arrived, and one that did not fails the command."""
    result = run(configuration)
    assert result.exit_code == 1
    assert "five over five: took the test message" in result.output
    assert "six over six:" in result.output
    assert "human: has no channel" in result.output
    ((request, _),) = httpserver.log
    assert request.get_json()["kind"] == "test"


def test_the_result_is_json_on_demand(configuration: Path) -> None:
    """For scripts."""
    found = json.loads(run(configuration, "--json").output)
    assert [(each["contact"], each["ok"]) for each in found] == [
        ("five", True),
        ("six", False),
        ("human", None),
    ]


def test_the_check_calls_nobody(configuration: Path, httpserver: HTTPServer) -> None:
    """It names the channel that could not send, and who is only told to the log."""
    findings = {each.subject: each for each in run_checks(load_settings(configuration))}
    assert findings["channel five"].ok
    assert not findings["channel six"].ok
    assert "missing cannot be read" in findings["channel six"].message
    assert findings["escalation"].message == "only the log hears of calls to: human"
    assert [request for request, _ in httpserver.log if request.method == "POST"] == []
