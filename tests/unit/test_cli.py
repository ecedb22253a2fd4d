"""The command: 0 well, 1 failed, 2 wrong usage or configuration, a sentence and never a traceback."""

import base64
import io
import json
import os
import pty
import re
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import yaml
from click.testing import CliRunner, Result
from pytest_httpserver import HTTPServer
from rich.console import Console
from rich.markup import escape
from rich.text import Text
from werkzeug import Request, Response

from deadline import within_deadline
from page_stories import a_night
from self_healing_fabric import __version__, screens
from self_healing_fabric.api.incidents import story as story_of
from self_healing_fabric.cli import main
from self_healing_fabric.client import FabricClient
from self_healing_fabric.configuration import load_settings
from self_healing_fabric.deployment import deployment_files
from self_healing_fabric.incidents import timeline
from self_healing_fabric.incidents.timeline import Entry, Kind
from self_healing_fabric.settings import Mode
from self_healing_fabric.store import Store, statements
from self_healing_fabric.watch import watch_list

PROCESS = [sys.executable, "-c", "from self_healing_fabric.cli import main; main(prog_name='shf')"]
CLOSED = "http://127.0.0.1:9"
COMMANDS = [
    "serve",
    "check",
    "demo",
    "incidents",
    "acknowledge",
    "reject",
    "escalate",
    "escalation",
    "close",
    "approve",
    "audit",
    "split",
    "drift",
    "strategies",
    "verdict",
    "mode",
    "rbac",
    "rules",
    "status",
    "dashboards",
    "init",
    "replay",
]
Shf = Callable[..., Result]


@pytest.fixture
def shf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shf:
    """Run the command in an empty folder. An exception that escapes fails the test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SHF_CONFIG", raising=False)
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: str) -> Result:
        result = CliRunner().invoke(main, arguments)
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return run


def write(path: Path, content: Any) -> str:
    """Write a configuration file; return its path."""
    path.write_text(yaml.safe_dump(content))
    return str(path)


def test_help_names_every_command(shf: Shf) -> None:
    """The list of the contract is what `shf --help` lists."""
    result = shf("--help")
    assert result.exit_code == 0
    assert sorted(main.commands) == sorted(COMMANDS)
    assert all(f"  {name} " in result.output for name in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(shf: Shf, command: str) -> None:
    """Help needs no configuration and says how the command is called."""
    for flag in ("--help", "-h"):
        result = shf(command, flag)
        assert result.exit_code == 0
        assert result.output.startswith(f"Usage: main {command}")


def test_the_version_is_printed(shf: Shf) -> None:
    """`shf --version` tells the version of the package."""
    assert shf("--version").output.strip().endswith(__version__)


@pytest.mark.parametrize(
    "arguments",
    [
        ("nonsense",),
        ("incidents", "--limit", "0"),
        ("incidents", "--limit", "many"),
        ("mode", "sometimes"),
        ("approve",),
        ("check", "--config", "missing.yaml"),
        ("serve", "--config", "missing.yaml"),
        ("check",),
        ("incidents",),
        ("mode",),
        ("rules", "--set", "heartbeat"),
        ("rules", "--config", "missing.yaml"),
        ("dashboards", "--runbooks", "ftp://wiki"),
        ("dashboards", "--out", "/dev/null/dashboards"),
    ],
)
def test_wrong_usage_ends_with_2_and_a_sentence(shf: Shf, arguments: tuple[str, ...]) -> None:
    """A wrong word, a wrong number or no configuration file."""
    result = shf(*arguments)
    assert result.exit_code == 2
    assert result.stderr.strip()


@pytest.mark.parametrize("command", ["serve", "check", "incidents", "mode", "rules"])
def test_a_wrong_configuration_ends_with_2_and_all_problems(shf: Shf, tmp_path: Path, command: str) -> None:
    """Every command that reads it tells every problem by its path."""
    path = write(tmp_path / "bad.yaml", {"mode": "x", "promethius": {}, "retry": {"attempts": 9}})
    result = shf(command, "--config", path)
    assert result.exit_code == 2
    assert result.stderr.startswith(f"shf: {path}: 3 problems\n")
    asks = command in ("incidents", "mode")
    assert [line.split(":")[0].strip() for line in result.stderr.splitlines()[1:]] == [
        "mode",
        "promethius",
        "retry.attempts",
        *(["A fabric that runs is asked without it, too"] if asks else []),
    ]


@pytest.mark.parametrize("content", ["listen: 127.0.0.1:9931\nservices:\n  cart\n    tier", None])
def test_a_running_fabric_is_paused_whatever_its_file_holds(
    shf: Shf, tmp_path: Path, httpserver: HTTPServer, content: str | None
) -> None:
    """Of a file that somebody is just writing, or has moved, only that was told: not how to do without it."""
    if content is not None:
        (tmp_path / "shf.yaml").write_text(content)
    told = shf("mode", "paused")
    assert told.exit_code == 2
    command = re.search(r"shf COMMAND (--url) http://127.0.0.1:9931 .*(--token-file) FILE", told.stderr)
    assert command is not None, told.stderr
    (tmp_path / "token").write_text("the token")
    httpserver.expect_oneshot_request(
        "/api/v1/mode", method="PUT", headers={"Authorization": "Bearer the token"}
    ).respond_with_json({"mode": "paused"})
    url, token_file = command.groups()
    assert shf("mode", "paused", url, httpserver.url_for(""), token_file, "token").stdout == "paused\n"
    httpserver.check()


def test_init_writes_a_configuration_that_is_valid_and_does_nothing_yet(shf: Shf, tmp_path: Path) -> None:
    """The file loads, starts in dry_run, and has a service to copy."""
    assert shf("init").exit_code == 0
    settings = load_settings(tmp_path / "shf.yaml")
    assert settings.mode is Mode.DRY_RUN
    assert settings.services


def test_init_and_check_agree(shf: Shf, tmp_path: Path) -> None:
    """`check` accepts the file of `init` as valid; what fails then are the servers that are not there."""
    shf("init", "other.yaml")
    text = (tmp_path / "other.yaml").read_text()
    (tmp_path / "other.yaml").write_text(
        text.replace(":9090", ":9").replace(":9093", ":9").replace(":8080", ":9")
    )
    result = shf("check", "--config", "other.yaml")
    assert "other.yaml: valid" in result.stdout
    assert "prometheus http://127.0.0.1:9: Prometheus at http://127.0.0.1:9 does not answer" in result.stdout
    assert result.exit_code == 1


@pytest.mark.parametrize("target", ["shf.yaml", "folder"])
def test_init_overwrites_nothing(shf: Shf, tmp_path: Path, target: str) -> None:
    """An existing file keeps its content, and the exit status is 2."""
    (tmp_path / "shf.yaml").write_text("mode: paused\n")
    (tmp_path / "folder").mkdir()
    result = shf("init", target)
    assert result.exit_code == 2
    assert "exists already" in result.stderr
    assert (tmp_path / "shf.yaml").read_text() == "mode: paused\n"


def test_init_into_a_missing_folder_is_a_sentence(shf: Shf) -> None:
    """The reason of the system is told."""
    result = shf("init", "missing/shf.yaml")
    assert (result.exit_code, "cannot be written: No such file" in result.stderr) == (2, True)


def test_check_ends_with_1_when_a_server_does_not_answer(shf: Shf, tmp_path: Path) -> None:
    """A valid configuration of absent servers is a failure, not a usage error."""
    path = write(tmp_path / "shf.yaml", {"prometheus": {"url": CLOSED}, "services": {"cart": {}}})
    result = shf("check", "--json")
    assert result.exit_code == 1
    findings = {finding["subject"]: finding["ok"] for finding in json.loads(result.stdout)}
    assert findings == {
        "rules": True,
        "access": True,
        "store": True,
        f"prometheus {CLOSED}": False,
        "alertmanager": None,
        "service cart": None,
        "escalation": None,
    }
    assert shf("check", "--config", path).exit_code == 1


def test_check_paints_no_markup_of_others(shf: Shf, tmp_path: Path, httpserver: HTTPServer) -> None:
    """An error text with brackets is printed as it is."""
    httpserver.expect_request("/api/v1/query").respond_with_data("[bold]broken[/bold]", status=500)
    write(tmp_path / "shf.yaml", {"prometheus": {"url": httpserver.url_for("").rstrip("/")}})
    assert "[bold]broken[/bold]" in shf("check").stdout


def test_rules_are_written_with_the_values_that_were_set(shf: Shf, tmp_path: Path) -> None:
    """`--set` changes the text of the rules, and the paths are printed."""
    result = shf("rules", "--out", "out", "--set", "heartbeat=45s", "--set", "error_ratio=0.07")
    assert result.exit_code == 0, result.stderr
    paths = [Path(line) for line in result.stdout.splitlines()]
    assert {path.name for path in paths} == {path.name for path in (tmp_path / "out").iterdir()}
    text = "".join((tmp_path / path).read_text() for path in paths)
    assert "[45s]" in text
    assert "0.07" in text


def test_dashboards_are_written_as_they_are_shipped(shf: Shf, tmp_path: Path) -> None:
    """All of them, and their paths are printed."""
    result = shf("dashboards", "--out", "out/grafana")
    assert json.loads(shf("dashboards", "--out", "again", "--json").stdout)[0].startswith("again/")
    shipped = deployment_files("grafana") / "dashboards"
    names = sorted(path.name for path in shipped.glob("*.json"))
    assert result.stdout.split() == [f"out/grafana/{name}" for name in names]
    for name in names:
        assert (tmp_path / "out/grafana" / name).read_text() == (shipped / name).read_text()


def test_dashboards_lead_to_the_runbooks_that_were_named(shf: Shf, tmp_path: Path) -> None:
    """And differ in nothing else."""
    assert shf("dashboards", "--out", "out", "--runbooks", "https://wiki.example/shf/").exit_code == 0
    shipped = deployment_files("grafana") / "dashboards"
    for path in (tmp_path / "out").iterdir():
        content, before = json.loads(path.read_text()), json.loads((shipped / path.name).read_text())
        (books,) = (each for each in content["templating"]["list"] if each["name"] == "runbooks")
        (others,) = (each for each in before["templating"]["list"] if each["name"] == "runbooks")
        assert books["query"] == "https://wiki.example/shf"
        books["query"] = others["query"]
        assert content == before


def test_rules_take_their_limits_from_the_configuration(shf: Shf, tmp_path: Path) -> None:
    """The same number alerts and verifies; --set wins over it."""
    write(tmp_path / "shf.yaml", {"thresholds": {"cpu": 0.77}, "prometheus": {"scrape_interval": "1s"}})
    listed = shf("rules", "--list", "--set", "memory=0.66").stdout
    values = {line.split()[0]: line.split()[1] for line in listed.splitlines()[1:] if len(line.split()) > 1}
    assert (values["cpu"], values["memory"], values["scrape_interval"]) == ("0.77", "0.66", "1.0")


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ("heartbeet=45s", "heartbeet: no parameter is called so; `shf rules --list` shows all"),
        ("heartbeat=soon", "'soon' is not a duration"),
        ("error_window=1s", "error_window is 1s but needs 4 times scrape_interval"),
        ("min_errors=x", "min_errors"),
    ],
)
def test_rules_that_cannot_work_are_refused(shf: Shf, tmp_path: Path, change: str, text: str) -> None:
    """A wrong name or value ends with 2, says which, and writes nothing."""
    result = shf("rules", "--out", "out", "--set", change)
    assert result.exit_code == 2
    assert text in result.stderr
    assert not (tmp_path / "out").exists()


def test_rules_into_a_place_that_cannot_be_written_is_a_sentence(shf: Shf, tmp_path: Path) -> None:
    """A file where a folder should be makes no traceback."""
    (tmp_path / "file").touch()
    result = shf("rules", "--out", "file/rules")
    assert result.exit_code in (1, 2)
    assert "file/rules" in result.stderr


def test_a_store_that_cannot_be_opened_is_told_as_such(shf: Shf, tmp_path: Path) -> None:
    """`serve` names the store, not the address that it would have listened on."""
    (tmp_path / "file").touch()
    write(tmp_path / "shf.yaml", {"store": f"sqlite:///{tmp_path}/file/shf.db"})
    result = shf("serve")
    assert result.exit_code == 1
    assert "file/shf.db" in result.stderr
    assert "listen" not in result.stderr


STORY: dict[str, Any] = {
    "id": "20261122-130512-a3f1",
    "title": "cart [red]is silent[/red]",
    "service": "cart",
    "known_service": True,
    "state": "verifying",
    "outcome": None,
    "severity": "critical",
    "signal": "heartbeat",
    "level": 1,
    "acknowledged_by": None,
    "failure_class": "service_failure",
    "pattern": "code_bug",
    "confidence": 0.55,
    "urgency": "now",
    "relapses": 0,
    "opened_at": "2026-11-22T13:05:12.000Z",
    "updated_at": "2026-11-22T13:05:13.000Z",
    "resolved_at": None,
    "closed_at": None,
    "waiting_for": None,
    "verdict": None,
    "merged_into": None,
    "split_from": "20261122-130500-b4c2",
    "plan": ["restart", "rollback"],
    "diagnosis": {
        "failure_class": "service_failure",
        "reason": "the service does not answer",
        "cause": {
            "pattern": "code_bug", "service": "cart", "confidence": 0.55,
            "evidence": [{"statement": "cart [red]fell silent.", "query": "up == 0", "value": 0.0,
                          "at": 1.0, "baseline": 1.0, "weight": 4.1}],
        },
        "alternatives": [{"pattern": "network_issue", "service": "db", "confidence": 0.2,
                          "evidence": [], "told_apart_by": "probe_success"}],
        "against": ["its health endpoint answers"],
        "missing": ["cart: cpu"],
        "next_query": "sum(up)",
    },
    "actions": [{
        "strategy": "restart", "target": "http:cart", "attempt": 1, "status": "succeeded",
        "verdict": None, "detail": "answered 202", "intended_at": "2026-11-22T13:05:12.000Z",
        "started_at": "2026-11-22T13:05:12.000Z", "finished_at": "2026-11-22T13:05:15.000Z",
    }],
    "calls": [{
        "contact": "ada", "channel": "people", "level": 1, "status": "sent", "reason": "r", "error": None,
        "created_at": "2026-11-22T13:05:12.000Z", "sent_at": None, "kind": kind,
    } for kind in ("escalation", "ended")],
    "next": {
        "due_at": "2026-11-22T13:05:20.000Z", "level_due_at": "2026-11-22T13:10:12.000Z",
        "next_level": {"level": 2, "name": "memory"},
        "verification": {"since": "2026-11-22T13:05:15.000Z", "deadline": "2026-11-22T13:08:15.000Z"},
        "mode": "automatic", "decisions": ["acknowledge", "close"], "action_under_way": False,
    },
    "alerts": [
        {"service": "cart", "status": "resolved", "annotations": {"runbook_url": "https://runbooks.example/o"}},
        {
            "service": "cart", "status": "firing",
            "annotations": {"runbook_url": "https://runbooks.example/silent"},
        },
        {"service": "front[red]end", "status": "firing", "annotations": {}},
        {"service": None, "status": "firing", "annotations": {}},
    ],
    "timeline": [
        {
            "id": 1,
            "at": "2026-11-22T13:05:12.000Z",
            "kind": "evidence",
            "message": "cart: heartbeat is 0",
            "data": {"query": 'service:shf_heartbeat:answered{service="cart"}'},
        },
        {
            "id": 2,
            "at": "2026-11-22T13:05:12.000Z",
            "kind": "guardrail",
            "message": "cooldown refuses",
            "data": {"guardrail": "cooldown", "reason": "too soon", "retry_at": 1795352772.0},
        },
        {"id": 3, "at": "2026-11-22T13:05:13.000Z", "kind": "action", "message": "a\x1b[31mb", "data": {}},
    ],
}  # fmt: skip


def test_incidents_are_listed_with_the_filters_asked_for(shf: Shf, httpserver: HTTPServer) -> None:
    """State, service and limit reach the API; the table shows the incident."""
    httpserver.expect_ordered_request(
        "/api/v1/incidents", query_string="state=resolved&state=closed&service=cart&limit=5"
    ).respond_with_json({"incidents": [STORY], "next_cursor": None})
    url = httpserver.url_for("")
    result = shf(
        *("incidents", "--url", url, "--state", "resolved", "--state", "closed"),
        *("--service", "cart", "--limit", "5"),
    )
    assert result.exit_code == 0, result.stderr
    assert "20261122-130512-a3f1" in result.stdout
    assert "code_bug 0.55" in result.stdout


def test_what_is_copied_is_whole_in_a_narrow_terminal() -> None:
    """One line with everything where it fits; else title and cause stand below, and nothing is cut."""
    wide = screens.incident_lines([STORY], 200)
    narrow = screens.incident_lines([STORY], 80)
    assert [len(wide), len(narrow)] == [2, 3]
    for text in (STORY["id"], "cart", "verifying", "code_bug 0.55", escape(STORY["title"])):
        assert text in wide[1], text
        assert text in "".join(narrow[1:]), text
    assert all(Text.from_markup(line).cell_len <= 80 for line in narrow)
    assert screens.incident_lines([STORY], None)[1] == wide[1]
    assert screens.incident_lines([], 80) == ["No incidents."]


def test_times_on_the_terminal_name_their_zone(tmp_path: Path, httpserver: HTTPServer) -> None:
    """Nobody has to guess whether it is their own: each time of each kind of story, and what stands below."""
    world = a_night(tmp_path, httpserver)
    written = io.StringIO()
    for row in world.incidents():
        screens.show_incident(Console(file=written, width=200), story_of(world.fabric, row.id))
    assert len(re.findall(r"\d\d:\d\d:\d\d UTC", written.getvalue())) > 20
    assert re.findall(r"\d\d:\d\d:\d\d(?! UTC).*", written.getvalue()) == []


def test_a_cause_that_is_not_named_is_not_listed(tmp_path: Path, httpserver: HTTPServer) -> None:
    """Neither in the list nor in the timeline is `unknown` told as a cause, with a confidence in it."""
    world = a_night(tmp_path, httpserver)
    (unsure, *_) = [row for row in world.incidents() if row.pattern == "unknown"]
    told = story_of(world.fabric, unsure.id)
    assert screens.cause(told) == "-"
    (diagnosed, *_) = [each["message"] for each in told["timeline"] if each["kind"] == "diagnosis"]
    assert "No cause is named, because the evidence carries none." in diagnosed
    assert "0.00" not in diagnosed


def test_one_long_name_does_not_widen_the_other_lines() -> None:
    """A column is filled up to what names usually need; what is longer stays whole in its own line."""
    long = {**STORY, "service": "x" * 8000}
    _, short_line, long_line = screens.incident_lines([STORY, long], None)
    assert len(short_line) < 250
    assert "x" * 8000 in long_line
    assert screens.incident_lines([STORY, long], 200)[1].endswith("1")  # the titles stand below, as before


SERVER = "http://127.0.0.1:19950/a/prometheus/behind/a/proxy"
REPORT: dict[str, Any] = {
    "healthy": False,
    "leader": True,
    "version": "1.0.0",
    "mode": "automatic",
    "problems": [f"Prometheus at {SERVER} does not answer: [Errno 111] Connection refused"],
    "incidents": {},
    "inbox": {"waiting": 0, "failed": 0},
    "loop": {"age_seconds": 1.0, "seconds": 0.01},
    "reconciled": {"age_seconds": None},
    "servers": [
        {
            "kind": "prometheus",
            "url": SERVER,
            "version": None,
            "answers": False,
            "latency_seconds": None,
            "answered": {"age_seconds": 7.0},
            "error": "[Errno 111] Connection refused [red]",
        }
    ],
    "guardians": {"answering": {}},
    "guards": {"answering": {}},
    "replicas": [],
}
RATES: dict[str, Any] = {
    "target": "kubernetes:Deployment/default/a-name-of-a-usual-length",
    "failure_class": "service_failure",
    "pattern": "resource_exhaustion",
    "strategy": "rollback",
    "healed": 3,
    "tried": 4,
    "rate_at_least": 0.3,
    "rate_at_most": 0.9,
}


def test_status_and_strategies_cut_nothing(
    shf: Shf, httpserver: HTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However narrow the terminal is, or a pipe is taken to be: a server keeps its port."""
    monkeypatch.setenv("COLUMNS", "40")
    httpserver.expect_request("/api/v1/status").respond_with_json(REPORT)
    httpserver.expect_request("/api/v1/strategies").respond_with_json({"strategies": [RATES]})
    status = shf("status", "--url", httpserver.url_for(""))
    lines = status.stdout.splitlines()
    assert f"  {REPORT['problems'][0]}" in lines
    server = REPORT["servers"][0]
    assert f"prometheus {SERVER}  -  no  -  7 s ago  {server['error']}".split() in map(str.split, lines)
    (head, row) = shf("strategies", "--url", httpserver.url_for("")).stdout.splitlines()
    assert head.split() == ["target", "class", "pattern", "strategy", "healed", "rate"]
    told = "service_failure  resource_exhaustion  rollback  3 of 4  0.30 to 0.90"
    assert row == f"{RATES['target']}  {told}"


@pytest.mark.parametrize(
    ("seconds", "told"), [(42, "42 s ago"), (300, "5 min ago"), (9000, "2 h ago"), (400_000, "4 d ago")]
)
def test_an_age_is_said_as_people_say_it(seconds: float, told: str) -> None:
    """In one unit, which the number of digits decides."""
    assert screens.age(datetime.fromtimestamp(time.time() - seconds, UTC).isoformat()) == told


def test_an_incident_is_shown_with_evidence_and_without_the_paint_of_strangers(
    shf: Shf, httpserver: HTTPServer
) -> None:
    """The query stands below its fact; markup and control characters of labels do nothing."""
    httpserver.expect_request("/api/v1/incidents/i1").respond_with_json(STORY)
    result = shf("incidents", "i1", "--url", httpserver.url_for(""))
    assert 'service:shf_heartbeat:answered{service="cart"}' in result.stdout
    assert "cart [red]is silent[/red]" in result.stdout
    assert "symptoms in front[red]end" in result.stdout
    assert "Split off from 20261122-130500-b4c2." in result.stdout
    assert "\x1b" not in result.stdout
    as_json = shf("incidents", "i1", "--json", "--url", httpserver.url_for(""))
    assert json.loads(as_json.stdout) == STORY


def test_an_incident_tells_in_the_terminal_what_its_page_tells(shf: Shf, httpserver: HTTPServer) -> None:
    """What comes next and when, the diagnosis with its alternatives, what was done, and the commands."""
    httpserver.expect_request("/api/v1/incidents/i1").respond_with_json(STORY)
    shown = shf("incidents", "i1", "--url", httpserver.url_for("")).stdout
    for text in (
        "Fresh samples are watched until they prove that it healed.  2026-11-22 13:05:20",
        "Without that proof it counts as not healed.  2026-11-22 13:08:15",
        "If that does not heal: rollback.",
        "level 2 (memory) is called.  2026-11-22 13:10:12",
        "runbook https://runbooks.example/silent",
        "You may: shf acknowledge 20261122-130512-a3f1, shf close 20261122-130512-a3f1",
        "Cause: code_bug in cart, confidence 0.55",
        "cart [red]fell silent.",
        "up == 0  value 0  usual 1  weight 4.1 bits",
        "Or: network_issue in db, confidence 0.20",
        "told apart by probe_success",
        "Against it: its health endpoint answers",
        "Not looked at: cart: cpu",
        "Ask next: sum(up)",
        "restart http:cart: succeeded, took 3 seconds: answered 202",
        "cooldown: too soon; asked again 2026-11-22",
        "ada over people, level 1: sent",
        "ada over people, level 1, that it is over: sent",
    ):
        assert text in shown, text
    assert all(f"shf {name}" not in shown for name in ("approve", "reject", "escalate"))


@pytest.mark.parametrize("decision", ["acknowledge", "approve", "reject", "escalate", "close"])
def test_every_button_has_its_command(shf: Shf, httpserver: HTTPServer, decision: str) -> None:
    """Who and why reach the API; the answer is the state, or all of it as JSON."""
    answer = {"id": "i1", "state": "escalated"}
    httpserver.expect_request(
        f"/api/v1/incidents/i1/{decision}", method="POST", json={"by": "ada", "reason": "I know"}
    ).respond_with_json(answer)
    arguments = [decision, "i1", "--by", "ada", "--reason", "I know", "--url", httpserver.url_for("")]
    assert shf(*arguments).stdout == "i1: escalated\n"
    assert json.loads(shf(*arguments, "--json").stdout) == answer


def test_who_takes_what_is_taken_reads_whose_it_is(shf: Shf, httpserver: HTTPServer) -> None:
    """Only the first who acknowledges owns it: the second must not go away believing that they do."""
    answer = {"id": "i1", "state": "escalated", "acknowledged_by": "carl"}
    httpserver.expect_request("/api/v1/incidents/i1/acknowledge").respond_with_json(answer)
    arguments = ["acknowledge", "i1", "--by", "dora", "--url", httpserver.url_for("")]
    assert shf(*arguments).stdout == "i1: escalated, taken by carl\n"


def test_closing_tells_what_is_left_alone(shf: Shf, httpserver: HTTPServer) -> None:
    """An alert that goes on opens nothing again; one that has ended need not be told."""
    alerts = [
        {"labels": {"alertname": "ShfCpuExhausted"}, "status": "resolved"},
        {"labels": {"alertname": "ShfHeartbeatMissed"}, "status": "firing"},
    ]
    for listed in (alerts, alerts[:1]):
        httpserver.expect_ordered_request("/api/v1/incidents/i1/close").respond_with_json(
            {"id": "i1", "state": "closed", "alerts": listed}
        )
    command = ("close", "i1", "--url", httpserver.url_for(""))
    first = shf(*command)
    assert first.stdout == "i1: closed\n"
    assert first.stderr.startswith("note: still firing: ShfHeartbeatMissed; nothing is done about it until")
    assert shf(*command).stderr == ""


def test_every_command_that_prints_something_prints_json(shf: Shf, httpserver: HTTPServer) -> None:
    """Those that are servers, or whose output is a file format, are named here."""
    from self_healing_fabric.cli import main as commands

    without = {"serve", "demo"}
    for name, command in commands.commands.items():
        for each in getattr(command, "commands", {name: command}).values():
            known = {option for parameter in each.params for option in parameter.opts}
            assert ("--json" in known) is (name not in without), name


def test_json_of_what_is_said_in_words_otherwise(shf: Shf, httpserver: HTTPServer, tmp_path: Path) -> None:
    """The mode, a verdict, a split, the parameters of the rules and their files, a new configuration."""
    url = ["--url", httpserver.url_for(""), "--json"]
    mode = {"mode": "paused", "services": {"cart": "paused"}}
    httpserver.expect_request("/api/v1/mode").respond_with_json(mode)
    given = {"by": "ada", "service_right": True, "pattern_right": True, "service": "c", "pattern": "p"}
    httpserver.expect_request("/api/v1/incidents/i1/verdict").respond_with_json({"verdict": given})
    httpserver.expect_request("/api/v1/incidents/i1/split").respond_with_json({"id": "i2", "state": "s"})
    assert json.loads(shf("mode", *url).stdout) == mode
    assert json.loads(shf("verdict", "i1", "right", *url).stdout) == given
    assert json.loads(shf("split", "i1", "front", *url).stdout)["id"] == "i2"
    listed = json.loads(shf("rules", "--list", "--json").stdout)
    assert {"parameter", "value", "meaning"} == listed[0].keys()
    assert all(Path(path).exists() for path in json.loads(shf("rules", "--out", "out", "--json").stdout))
    assert json.loads(shf("init", "new.yaml", "--json").stdout) == {"written": "new.yaml"}
    assert shf("rules", "--format", "prometheusrule", "--json").exit_code == 2


def test_watching_prints_changes_as_lines_and_ends_at_ctrl_c(
    shf: Shf, httpserver: HTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the output is no terminal: one line a change, none for what stays; an answer that fails is said
    once, and does not end it."""
    answers = [
        {"incidents": [STORY]},
        {"incidents": [STORY]},
        None,
        None,
        {"incidents": [{**STORY, "state": "resolved", "outcome": "healed"}]},
    ]

    def answer(_: Request) -> Response:
        if not answers:
            raise AssertionError("asked after Ctrl-C")
        content = answers.pop(0)
        return Response(status=500) if content is None else Response(json.dumps(content))

    def sleep(_: float) -> None:
        if not answers:
            raise KeyboardInterrupt

    httpserver.expect_request("/api/v1/incidents").respond_with_handler(answer)
    monkeypatch.setattr("self_healing_fabric.watch.time.sleep", sleep)
    result = shf("incidents", "--watch", "--url", httpserver.url_for(""))
    assert result.exit_code == 0
    assert [line.partition(" ")[2] for line in result.stdout.splitlines()] == [
        "20261122-130512-a3f1 cart verifying level 1 cart [red]is silent[/red]",
        "20261122-130512-a3f1 cart resolved (healed) level 1 cart [red]is silent[/red]",
    ]
    assert result.stderr.count("asked again") == 1
    assert result.stderr.count("answers again") == 1


@pytest.mark.parametrize(
    ("waiting", "told"),
    [(0, ""), (1, "1 of them waits for a person. "), (2, "2 of them wait for a person. ")],
)
def test_watching_in_a_terminal_says_first_how_many_wait(
    httpserver: HTTPServer, monkeypatch: pytest.MonkeyPatch, waiting: int, told: str
) -> None:
    """Above the list, which a low terminal cuts at its end."""
    rows = [{**STORY, "state": "escalated" if number < waiting else "verifying"} for number in range(2)]
    httpserver.expect_request("/api/v1/incidents").respond_with_json({"incidents": rows})
    monkeypatch.setattr("self_healing_fabric.watch.time.sleep", Mock(side_effect=KeyboardInterrupt))
    written = io.StringIO()
    console = Console(file=written, force_terminal=True, width=120)
    api = FabricClient(httpserver.url_for(""))
    watch_list(api, {}, 50, interval=2.0, as_json=False, console=console)
    shown = Text.from_ansi(written.getvalue()).plain
    assert re.search(rf"{told}As of \d\d:\d\d:\d\d UTC, again", shown)
    assert shown.index("As of ") < shown.index(STORY["id"])
    assert ("wait" in shown) is bool(waiting)


def test_watching_one_incident_tells_what_is_added_until_it_is_closed(
    shf: Shf, httpserver: HTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The story once, then only what is new; as JSON an entry a line."""
    more = {"id": 4, "at": "2026-11-22T13:06:00.000Z", "kind": "note", "message": "closed it", "data": {}}
    closed = {**STORY, "state": "closed", "timeline": [*STORY["timeline"], more]}
    monkeypatch.setattr("self_healing_fabric.watch.time.sleep", lambda _: None)
    for option in ([], ["--json"]):
        for story in (STORY, closed):
            httpserver.expect_ordered_request("/api/v1/incidents/i1").respond_with_json(story)
        result = shf("incidents", "i1", "--watch", *option, "--url", httpserver.url_for(""))
        assert result.exit_code == 0, result.stderr
        lines = result.stdout.splitlines()
        if option:
            assert [json.loads(line)["id"] for line in lines] == [1, 2, 3, 4]
        else:
            assert lines[-1] == "2026-11-22 13:06:00 UTC note         closed it"
            assert result.stdout.count("heartbeat is 0") == 1


def test_a_watch_that_cannot_begin_is_an_error(shf: Shf) -> None:
    """Nobody listens, or the interval is none."""
    assert shf("incidents", "--watch", "--url", CLOSED).exit_code == 1
    for interval in ("soon", "0s"):
        assert shf("incidents", "--watch", "--interval", interval, "--url", CLOSED).exit_code == 2


def test_approving_tells_who_and_prints_the_state(shf: Shf, httpserver: HTTPServer) -> None:
    """The name given with --by reaches the API."""
    httpserver.expect_ordered_request(
        "/api/v1/incidents/i1/approve", method="POST", json={"by": "ada"}
    ).respond_with_json({"id": "i1", "state": "recovering"})
    assert shf("approve", "i1", "--by", "ada", "--url", httpserver.url_for("")).stdout == "i1: recovering\n"


ASKS = {
    **STORY,
    "state": "awaiting_approval",
    "asked_for": "i1/restart-0",
    "next": {**STORY["next"], "decisions": ["approve", "reject"]},
    "timeline": [{
        "id": 1, "at": "2026-11-22T13:06:00.000Z", "kind": "plan", "message": "May I restart http:cart?",
        "data": {"action": "i1/restart-0", "strategy": "restart", "target": "http:cart"},
    }],
}  # fmt: skip


def test_what_was_shown_is_what_is_allowed(shf: Shf, httpserver: HTTPServer) -> None:
    """The command that an incident shows names the action, and that reaches the API."""
    httpserver.expect_request("/api/v1/incidents/i1").respond_with_json(ASKS)
    assert f"shf approve {STORY['id']} --asked-for i1/restart-0, shf reject" in shf(
        "incidents", "i1", "--url", httpserver.url_for("")
    ).stdout.replace("\n", " ")
    httpserver.expect_oneshot_request(
        "/api/v1/incidents/i1/approve", method="POST", json={"by": "ada", "asked_for": "i1/restart-0"}
    ).respond_with_json({"id": "i1", "state": "recovering"})
    told = shf("approve", "i1", "--by", "ada", "--asked-for", "i1/restart-0", "--url", httpserver.url_for(""))
    assert told.stdout == "i1: recovering\n"


@pytest.mark.parametrize(("answer", "ends_with"), [("y", 0), ("n", 1)])
def test_a_person_at_a_terminal_sees_what_would_be_done(
    httpserver: HTTPServer, answer: str, ends_with: int
) -> None:
    """Only a yes to it is sent, for that action."""
    httpserver.expect_request("/api/v1/incidents/i1", method="GET").respond_with_json(ASKS)
    httpserver.expect_request(
        "/api/v1/incidents/i1/approve", method="POST", json={"by": "ada", "asked_for": "i1/restart-0"}
    ).respond_with_json({"id": "i1", "state": "recovering"})
    ours, theirs = pty.openpty()
    try:
        os.write(ours, f"{answer}\n".encode())
        ended = subprocess.run(
            [*PROCESS, "approve", "i1", "--by", "ada", "--url", httpserver.url_for("")],
            stdin=theirs,
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        os.close(ours)
        os.close(theirs)
    assert "May I restart http:cart?" in ended.stderr
    assert (ended.returncode, ended.stdout) == (ends_with, "i1: recovering\n" if answer == "y" else "")
    assert sum(request.method == "POST" for request, _ in httpserver.log) == (answer == "y")


OF_ONE_INCIDENT = [
    ("incidents",),
    ("incidents", "--watch"),
    ("approve",),
    ("close",),
    ("split", "--by=ada", "--", "ID", "frontend"),
    ("verdict", "--by=ada", "--", "ID", "right"),
]


def of(command: tuple[str, ...], incident_id: str) -> list[str]:
    """The command about an incident."""
    if "ID" in command:
        return [incident_id if word == "ID" else word for word in command]
    return [*command, "--", incident_id]


@pytest.mark.parametrize("command", OF_ONE_INCIDENT)
@pytest.mark.parametrize("incident_id", ["../status", "..", ".", "a/b", "../../x", "/"])
def test_an_id_that_is_a_path_leads_nowhere_else(
    shf: Shf, httpserver: HTTPServer, tmp_path: Path, command: tuple[str, ...], incident_id: str
) -> None:
    """It is told as an incident that there is not, and nothing else is asked."""
    write(tmp_path / "shf.yaml", {"listen": f"127.0.0.1:{httpserver.port}"})
    httpserver.expect_request("/api/v1/status").respond_with_json({"healthy": True})
    result = shf(*of(command, incident_id))
    assert (result.exit_code, result.stderr) == (1, f"shf: no incident has the id {incident_id!r}\n")
    assert httpserver.log == []


@pytest.mark.parametrize("incident_id", ["x?y", "x#y", "x%2Fy", "x y", "tökén", "x\\y", "\udcff"])
def test_an_id_is_asked_for_as_it_was_typed(
    shf: Shf, httpserver: HTTPServer, tmp_path: Path, incident_id: str
) -> None:
    """Whatever characters it has, bytes that are no text included."""
    write(tmp_path / "shf.yaml", {"listen": f"127.0.0.1:{httpserver.port}"})
    shf("incidents", incident_id)
    ((request, _),) = httpserver.log
    asked = incident_id.encode(errors="surrogateescape").decode(errors="replace")
    assert (request.path, request.query_string) == (f"/api/v1/incidents/{asked}", b"")


@pytest.mark.parametrize("command", OF_ONE_INCIDENT)
def test_an_empty_id_is_wrong_usage(shf: Shf, command: tuple[str, ...]) -> None:
    """It is no word for all incidents, either."""
    Path("shf.yaml").write_text("{}")
    result = shf(*of(command, ""))
    assert (result.exit_code, "the ID is empty" in result.stderr) == (2, True)


@pytest.mark.parametrize("arguments", [("mode", "paused", "--by"), ("incidents", "--service")])
def test_bytes_that_are_no_text_are_wrong_usage(shf: Shf, arguments: tuple[str, ...]) -> None:
    """Neither JSON nor a query can hold them."""
    result = shf(*arguments, "\udcff", "--url", CLOSED)
    assert (result.exit_code, result.stderr[:32]) == (2, "shf: only text in UTF-8 can be s")


def test_a_verdict_is_sent_whole_and_answered_in_words(shf: Shf, httpserver: HTTPServer) -> None:
    """What the person knows, by whom and how; the answer says how it was understood."""
    given = {
        "source": "person",
        "by": "ada",
        "service_right": True,
        "pattern_right": False,
        "service": "cart",
        "pattern": "code_bug",
    }
    body = {"by": "ada", "right": False, "service": None, "pattern": "code_bug", "reason": "log"}
    httpserver.expect_oneshot_request(
        "/api/v1/incidents/i1/verdict", method="POST", json=body
    ).respond_with_json({"id": "i1", "verdict": given})
    arguments = ["--pattern", "code_bug", "--by", "ada", "--reason", "log", "--url", httpserver.url_for("")]
    answer = shf("verdict", "i1", "wrong", *arguments).stdout
    assert answer == "verdict of ada: service right, pattern wrong (it was cart, code_bug)\n"
    assert shf("verdict", "i1", "perhaps").exit_code == 2
    misspelt = {**given, "service": "crat", "service_right": False, "known_service": False}
    httpserver.expect_request("/api/v1/incidents/i1/verdict").respond_with_json({"verdict": misspelt})
    (line,) = shf("verdict", "i1", "wrong", "--url", httpserver.url_for("")).stdout.splitlines()
    assert line.endswith("(it was crat, code_bug; no service is called crat here: is it spelt so?)")


def test_splitting_names_the_service_the_person_and_the_reason(shf: Shf, httpserver: HTTPServer) -> None:
    """What is printed is the new incident."""
    body = {"by": "ada", "service": "frontend", "reason": "it fails for itself"}
    httpserver.expect_ordered_request(
        "/api/v1/incidents/i1/split", method="POST", json=body
    ).respond_with_json({"id": "i2", "state": "detected"})
    arguments = ("--by", "ada", "--reason", "it fails for itself", "--url", httpserver.url_for(""))
    assert shf("split", "i1", "frontend", *arguments).stdout == "i2: detected\n"


@pytest.mark.parametrize("scope", ["service", "strategy"])
def test_a_mode_that_is_not_in_force_is_told(shf: Shf, httpserver: HTTPServer, scope: str) -> None:
    """A stricter one of everything is; where the new one is in force, nothing needs to be said."""
    answers = [{"mode": "dry_run"}, {"mode": "automatic"}, {"mode": "automatic", "services": {"x": "paused"}}]
    for answer in answers:
        httpserver.expect_ordered_request("/api/v1/mode", method="PUT").respond_with_json(answer)
    command = ("mode", "automatic", f"--{scope}", "restart", "--url", httpserver.url_for(""))
    first = shf(*command)
    assert (first.exit_code, first.stdout) == (0, "dry_run\n")
    assert "restart stays in dry_run, the mode of everything: the strictest is in force" in first.stderr
    for _ in answers[1:]:
        assert shf(*command).stderr == ""


def test_the_mode_is_shown_and_set_with_the_token(shf: Shf, tmp_path: Path, httpserver: HTTPServer) -> None:
    """GET without a mode, PUT with one; both carry the configured token."""
    (tmp_path / "token").write_text("abc\n")
    host = httpserver.url_for("").removeprefix("http://").rstrip("/").replace("localhost", "127.0.0.1")
    write(tmp_path / "shf.yaml", {"listen": host, "auth": {"token_file": str(tmp_path / "token")}})
    headers = {"Authorization": "Bearer abc"}
    httpserver.expect_ordered_request("/api/v1/mode", method="GET", headers=headers).respond_with_json(
        {"mode": "automatic"}
    )
    httpserver.expect_ordered_request(
        "/api/v1/mode", method="PUT", headers=headers, json={"mode": "paused", "by": "ada"}
    ).respond_with_json({"mode": "paused"})
    assert shf("mode").stdout == "automatic\n"
    assert shf("mode", "paused", "--by", "ada").stdout == "paused\n"


def test_the_command_line_is_the_caller_that_may_control(
    shf: Shf, tmp_path: Path, httpserver: HTTPServer
) -> None:
    """Of the configured callers the one with the right, by its password; another can be named."""
    for name in ("am", "ops", "eve"):
        (tmp_path / name).write_text(f"{name}-secret\n")
    callers = {
        "am": {"rights": ["send", "read"], "token_file": str(tmp_path / "am")},
        "ops": {"rights": ["control"], "username": "ops", "password_file": str(tmp_path / "ops")},
    }
    host = httpserver.url_for("").removeprefix("http://").rstrip("/").replace("localhost", "127.0.0.1")
    write(tmp_path / "shf.yaml", {"listen": host, "auth": {"callers": callers}})
    for pair in ("ops:ops-secret", "eve:eve-secret"):
        headers = {"Authorization": "Basic " + base64.b64encode(pair.encode()).decode()}
        httpserver.expect_ordered_request("/api/v1/mode", headers=headers).respond_with_json(
            {"mode": "paused"}
        )
    assert shf("mode").stdout == "paused\n"
    assert shf("mode", "--user", "eve", "--password-file", tmp_path / "eve").stdout == "paused\n"


@pytest.mark.parametrize(
    "arguments",
    [("--user", "a"), ("--password-file", "f"), ("--user", "a", "--password-file", "f", "--token-file", "f")],
)
def test_a_user_without_a_password_is_wrong_usage(shf: Shf, arguments: tuple[str, ...]) -> None:
    """Half a credential, or two of them, is told before anything is asked."""
    assert shf("mode", "--url", CLOSED, *arguments).exit_code == 2


def test_an_audit_names_the_line_that_was_changed(shf: Shf, tmp_path: Path) -> None:
    """Sound: 0, with the head that `head` prints; a changed line, or an unknown hash: 1, and which line."""
    url = f"sqlite:///{tmp_path}/shf.db"
    write(tmp_path / "shf.yaml", {"store": url})
    row = {"id": "i1", "subject": "s", "known_service": False, "title": "t", "severity": "warning"}
    row |= {"state": "closed", "opened_at": 1.0, "updated_at": 1.0, "plan": []}
    told = [Entry(Kind.NOTE, "it happened"), Entry(Kind.NOTE, "and ended")]
    with closing(Store(url)) as store:
        store.write(lambda connection: statements.insert_incidents(connection, [row]))
        store.write(lambda connection: timeline.append(connection, "i1", told, 2.0))
        while_it_runs = shf("audit", "verify", "--json")
    assert while_it_runs.exit_code == 0
    found = json.loads(while_it_runs.stdout)
    assert (found["incidents"], found["lines"], found["findings"]) == (1, 2, [])
    head = shf("audit", "head").stdout.strip()
    assert head == found["head"]["hash"]
    assert shf("audit", "verify", "--expect", head).exit_code == 0
    assert shf("audit", "verify", "--expect", "f" * 64).exit_code == 1
    with closing(sqlite3.connect(tmp_path / "shf.db")) as shell:
        shell.execute("DROP TRIGGER timeline_refuses_update")
        shell.execute("UPDATE timeline SET message = 'nothing' WHERE message = 'it happened'")
        shell.commit()
    result = shf("audit", "verify")
    assert result.exit_code == 1
    assert result.stdout.startswith(
        "incident i1: line 1 or the one before it was changed, removed or inserted\n"
    )


def test_an_audit_of_no_store_is_a_sentence(shf: Shf, tmp_path: Path) -> None:
    """It names the file, also one that another folder was meant for, and makes none."""
    write(tmp_path / "shf.yaml", {"store": "sqlite:///none.db"})
    result = shf("audit", "verify")
    assert result.exit_code == 1
    assert result.stderr.startswith(f"shf: cannot read the store: {tmp_path}/none.db does not exist.")
    assert not (tmp_path / "none.db").exists()


def test_a_refusal_of_the_fabric_ends_with_1_and_its_reason(shf: Shf, httpserver: HTTPServer) -> None:
    """The problem document's title and detail are the sentence."""
    httpserver.expect_request("/api/v1/incidents/i1/approve").respond_with_json(
        {"title": "Conflict", "detail": "it awaits no approval"}, status=409
    )
    result = shf("approve", "i1", "--url", httpserver.url_for(""))
    assert (result.exit_code, result.stderr) == (1, "shf: Conflict: it awaits no approval\n")


@pytest.mark.parametrize("url", [CLOSED, "http://two words", "ftp://host", "nonsense", "http://[::1"])
def test_a_fabric_that_does_not_answer_ends_with_1(shf: Shf, url: str) -> None:
    """Nobody listens, or the address is none: one sentence."""
    result = shf("mode", "--url", url)
    assert result.exit_code == 1
    assert result.stderr.startswith("shf: ")


@pytest.mark.parametrize(
    ("status", "body"),
    [(status, body) for status in (200, 500) for body in ("<html>", "[]", '"text"', "")] + [(500, "{}")],
)
def test_another_server_on_that_port_ends_with_1(
    shf: Shf, httpserver: HTTPServer, status: int, body: str
) -> None:
    """Whatever answers there, if it is not the fabric it is told in a sentence."""
    httpserver.expect_request("/api/v1/mode").respond_with_data(body, status=status)
    result = shf("mode", "--url", httpserver.url_for(""))
    assert result.exit_code == 1
    assert result.stderr.startswith("shf: ")


@pytest.mark.parametrize(
    "command",
    [
        ("incidents",),
        ("incidents", "i1"),
        ("incidents", "--watch"),
        ("incidents", "i1", "--watch"),
        ("mode",),
        ("mode", "paused"),
        ("status",),
        ("strategies",),
        ("close", "i1"),
        ("approve", "i1"),
        ("split", "i1", "cart"),
        ("verdict", "i1", "right"),
    ],
    ids=" ".join,
)
@pytest.mark.parametrize(
    "body", ["{}", "{}[", "[" * 100_000, '{"mode": 1, "incidents": [{}], "services": [1]}']
)
def test_an_answer_that_is_not_of_this_version_is_a_sentence(
    shf: Shf, httpserver: HTTPServer, command: tuple[str, ...], body: str
) -> None:
    """JSON of another server, or of a fabric whose answers have other fields."""
    httpserver.expect_request(re.compile("/api/v1/.*")).respond_with_data(body)
    result = shf(*command, "--url", httpserver.url_for(""))
    assert result.exit_code == 1
    assert "as the fabric does" in result.stderr or f"of version {__version__}" in result.stderr


def test_an_answer_that_never_ends_is_not_waited_for(
    shf: Shf, httpserver: HTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each byte comes in time, and the whole never does. An order may have been carried out: so it says."""
    monkeypatch.setattr("self_healing_fabric.client.WITHIN", 0.5)
    ended = threading.Event()

    def drip() -> Iterator[bytes]:
        while not ended.wait(0.1):
            yield b" "

    httpserver.expect_request("/api/v1/mode").respond_with_handler(lambda _: Response(drip()))
    try:
        result = within_deadline(lambda: shf("mode", "paused", "--url", httpserver.url_for("")))
    finally:
        ended.set()
    assert result.exit_code == 1
    assert "takes longer than 0.5 s" in result.stderr
    assert "It may have been carried out" in result.stderr


def test_what_was_not_sent_is_not_said_to_be_done_perhaps(shf: Shf) -> None:
    """Nobody listens there."""
    assert "may have" not in shf("mode", "paused", "--url", CLOSED).stderr


def test_more_incidents_than_one_answer_holds_are_listed(shf: Shf, httpserver: HTTPServer) -> None:
    """Answer after answer, and it is said when there are older ones still."""
    rows = [{**STORY, "id": f"i{number}"} for number in range(700)]
    for query, part, cursor in (
        ("state=closed&limit=500", rows[:500], "older"),
        ("state=closed&limit=100&cursor=older", rows[500:600], "oldest"),
    ):
        httpserver.expect_ordered_request("/api/v1/incidents", query_string=query).respond_with_json(
            {"incidents": part, "next_cursor": cursor}
        )
    result = shf("incidents", "--limit", "600", "--state", "closed", "--url", httpserver.url_for(""))
    assert result.exit_code == 0, result.stderr
    assert [line.split()[0] for line in result.stdout.splitlines()[1:]] == [each["id"] for each in rows[:600]]
    assert "the newest 600" in result.stderr


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "token cannot be read: No such file or directory"),
        (b"\xff\xfe", "token cannot be read: not UTF-8"),
        ("tökén\n".encode(), "token holds no token: an HTTP header takes ASCII only"),
        (b"a\nb", "token holds more than one line"),
        (b"a\x1bb", "token holds more than one line, or control characters"),
        (b"", "token is empty: write the secret into it"),
        (b" \n", "token is empty: write the secret into it"),
    ],
)
def test_a_token_that_cannot_be_sent_ends_with_1(
    shf: Shf, httpserver: HTTPServer, tmp_path: Path, content: bytes | None, told: str
) -> None:
    """The file is what is named, not a fabric that would answer."""
    httpserver.expect_request("/api/v1/mode").respond_with_json({"mode": "automatic"})
    if content is not None:
        (tmp_path / "token").write_bytes(content)
    result = shf("mode", "--url", httpserver.url_for(""), "--token-file", "token")
    assert result.exit_code == 1
    assert result.stderr.startswith(f"shf: {told}")
    password = shf("mode", "--url", httpserver.url_for(""), "--user", "ada", "--password-file", "token")
    assert password.exit_code == (0 if content and content.startswith(b"t") else 1)


FULL = Path("/dev/full")


@pytest.mark.skipif(not FULL.exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize(
    "arguments", [("rules", "--list"), ("rules", "--list", "--json"), ("status", "--help"), ("check",)]
)
def test_output_that_cannot_be_written_ends_with_1(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    """A full disk is told in a sentence: of tables, JSON, help and what is told bit by bit."""
    write(tmp_path / "shf.yaml", {"prometheus": {"url": CLOSED}})
    with FULL.open("w") as full:
        ended = subprocess.run(
            [*PROCESS, *arguments], cwd=tmp_path, stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    told = "shf: the output cannot be written: No space left on device\n"
    assert (ended.returncode, ended.stderr) == (1, told)


@pytest.mark.parametrize("arguments", [("rules", "--list"), ("rules", "--list", "--json"), ("--help",)])
def test_a_reader_that_has_gone_ends_it_quietly(arguments: tuple[str, ...]) -> None:
    """As `shf ... | head -1` does."""
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as gone:
        ended = subprocess.run(
            [*PROCESS, *arguments], stdout=gone, stderr=subprocess.PIPE, text=True, check=False
        )
    assert (ended.returncode, ended.stderr) == (1, "")


def test_rules_as_a_manifest_for_the_operator() -> None:
    """One PrometheusRule on standard output, with the labels that the operator selects by."""
    arguments = [
        "rules",
        "--format",
        "prometheusrule",
        "--label",
        "release=prom",
        "--namespace",
        "monitoring",
    ]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    manifest = yaml.safe_load(result.stdout)
    assert manifest["kind"] == "PrometheusRule"
    assert manifest["metadata"]["labels"] == {"release": "prom"}
    assert manifest["metadata"]["namespace"] == "monitoring"
    alerts = {rule.get("alert") for group in manifest["spec"]["groups"] for rule in group["rules"]}
    assert {"ShfHeartbeatMissed", "ShfWatchdog"} <= alerts


@pytest.mark.parametrize("wrong", [["--label", "release"], ["--name", "Not A Name"]])
def test_a_wrong_manifest_is_a_usage_error(wrong: list[str]) -> None:
    """What Kubernetes would refuse is refused here, with what to write."""
    result = CliRunner().invoke(main, ["rules", "--format", "prometheusrule", *wrong])
    assert result.exit_code == 2
    assert "Traceback" not in result.output


def test_a_threshold_beside_the_configuration_is_pointed_out(tmp_path: Path) -> None:
    """The fabric's exported limits win over the rendered ones: `--set` alone would have no effect."""
    config = tmp_path / "shf.yaml"
    config.write_text("thresholds: {heartbeat: 45s}")
    arguments = ["rules", "--config", str(config), "--out", str(tmp_path / "rules")]
    assert "note:" not in CliRunner().invoke(main, arguments).output
    told = CliRunner().invoke(main, [*arguments, "--set", "heartbeat=40s"])
    assert told.exit_code == 0
    assert "thresholds.heartbeat = 45.0" in told.output


def test_drift_is_shown_masked_and_exits_with_1(shf: Shf, httpserver: HTTPServer) -> None:
    """As diff does: 0 without a difference, 1 with one; what cannot be read is one too."""
    Path("wanted.yaml").write_text("pool: 20\npassword: canary-wanted\n")
    running = {"content": "pool: 5\npassword: canary-running\n"}
    httpserver.expect_request("/config").respond_with_handler(
        lambda _: Response(running["content"], headers={"ETag": '"1"'})
    )
    live = {"http": httpserver.url_for("/config")}
    configuration = {"desired": {"file": "wanted.yaml"}, "live": live, "format": "yaml"}
    services = {"cart": {"recovery": {"configuration": configuration}}, "plain": {}}
    Path("shf.yaml").write_text(yaml.safe_dump({"services": services}))
    shown = shf("drift")
    assert shown.exit_code == 1
    for line in ("- pool: 5", "+ pool: 20", "+ password: ****** (another value)"):
        assert line in shown.output
    assert json.loads(shf("drift", "cart", "--json").output)[0]["places"] == 2
    assert "canary" not in shown.output + shf("drift", "--json").output
    assert shf("drift", "plain").exit_code == 2
    assert shf("drift", "nobody").exit_code == 2
    running["content"] = "# the same\npassword: canary-wanted\npool: 20"
    assert shf("drift").exit_code == 0
    Path("wanted.yaml").write_text("pool: [canary\n")
    broken = shf("drift")
    assert broken.exit_code == 1
    assert "no valid YAML" in broken.output
    assert "canary" not in broken.output
