"""The dashboards are what the code makes, ask only for what is exported, and show what is the case.

A dashboard fails silently: a metric that was renamed looks like an hour without incidents. So each query runs
on a real Prometheus, filled with what a real fabric exported.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations
from types import ModuleType
from typing import Any

import httpx
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from self_healing_fabric.app import create_app
from self_healing_fabric.deployment import deployment_files
from self_healing_fabric.incidents.lifecycle import State
from self_healing_fabric.integration.lifecycle import Fabric
from self_healing_fabric.settings import Settings
from self_healing_fabric.store import statements
from shf_demo.ports import free_ports
from shf_demo.servers import Server

FOLDER = deployment_files("grafana")
OPENED = 300.0  # seconds before the newest sample, when the incidents of these tests were opened
Panel = Mapping[str, Any]


def load_generator() -> ModuleType:
    """grafana/generate.py belongs to no package."""
    spec = importlib.util.spec_from_file_location("generate_dashboards", FOLDER / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


DASHBOARDS = {path.name: json.loads(path.read_text()) for path in sorted(FOLDER.glob("dashboards/*.json"))}
OVERVIEW = DASHBOARDS["incident-overview.json"]
PANELS = [pytest.param(panel, id=panel["title"]) for each in DASHBOARDS.values() for panel in each["panels"]]


def expressions(panel: Panel) -> list[str]:
    """The panel's queries, with Grafana's variables replaced."""
    values = {"$service": ".*", "$__range": "1h", "$__rate_interval": "65s"}
    found = [str(target["expr"]) for target in panel["targets"]]
    for name, value in values.items():
        found = [expression.replace(name, value) for expression in found]
    return found


def panel_called(title: str) -> Panel:
    """The panel of the overview that has this title."""
    return next(panel for panel in OVERVIEW["panels"] if panel["title"] == title)


@pytest.mark.filterwarnings("ignore:Prefer using dashboardv2:DeprecationWarning")  # see generate.py: refused
def test_the_committed_files_are_what_the_code_makes() -> None:
    """Neither edited by hand nor forgotten to generate."""
    made = load_generator().rendered()
    assert {path.name: path.read_text() for path in FOLDER.glob("dashboards/*.json")} == made


def test_the_overview_keeps_its_address_and_its_format() -> None:
    """Links and bookmarks hold the uid; provisioning refuses newer schemas, older ones are migrated."""
    assert (OVERVIEW["uid"], OVERVIEW["schemaVersion"]) == ("shf-incident-overview", 42)
    assert OVERVIEW["title"] == "Self-Healing Fabric / Incident overview"
    assert [variable["name"] for variable in OVERVIEW["templating"]["list"]] == ["datasource", "service"]


@pytest.mark.parametrize("content", DASHBOARDS.values(), ids=DASHBOARDS)
def test_panels_can_be_told_apart(content: Panel) -> None:
    """By id, by title and by place."""
    panels = content["panels"]
    assert len({panel["id"] for panel in panels} - {0}) == len(panels)
    assert len({panel["title"] for panel in panels} - {""}) == len(panels)
    for one, other in combinations(panels, 2):
        assert not overlap(one["gridPos"], other["gridPos"]), f"{one['title']} covers {other['title']}"
    assert all(panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24 for panel in panels)


def overlap(one: Mapping[str, int], other: Mapping[str, int]) -> bool:
    """Whether two rectangles of the grid share a cell."""
    beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
    return not (beside or one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"])


@pytest.mark.parametrize("panel", PANELS)
def test_a_panel_says_what_it_shows(panel: Panel) -> None:
    """With a description, a unit, a word for nothing, and the data source that the reader chose."""
    assert len(panel["description"]) > 20
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert panel["fieldConfig"]["defaults"]["noValue"]
    sources = [panel["datasource"], *(target["datasource"] for target in panel["targets"])]
    assert sources == [{"type": "prometheus", "uid": "${datasource}"}] * len(sources)
    identifiers = [target["refId"] for target in panel["targets"]]
    assert sorted(set(identifiers)) == identifiers


@pytest.mark.parametrize("panel", PANELS)
def test_no_data_never_looks_healthy(panel: Panel) -> None:
    """Grafana paints the words for no data in the colour of the lowest threshold."""
    for step in panel["fieldConfig"]["defaults"].get("thresholds", {"steps": []})["steps"]:
        assert step["value"] is not None or step["color"] == "text"
    assert "vector(" not in "".join(expressions(panel))


def test_the_state_timeline_is_not_coloured_by_thresholds() -> None:
    """Grafana would ignore the mappings then: all green during an outage."""
    defaults = panel_called("State of the services")["fieldConfig"]["defaults"]
    assert defaults["color"]["mode"] == "fixed"
    (mapping,) = defaults["mappings"]
    shown = {value: (option["text"], option["color"]) for value, option in mapping["options"].items()}
    assert shown == {"0": ("healthy", "green"), "1": ("healing", "orange"), "2": ("escalated", "red")}


def test_the_provisioning_files_are_valid() -> None:
    """And refuse changes in the browser, which the next update would overwrite."""
    providers, sources = (
        yaml.safe_load((FOLDER / "provisioning" / kind / "self-healing-fabric.yaml").read_text())
        for kind in ("dashboards", "datasources")
    )
    (provider,), (source,) = providers["providers"], sources["datasources"]
    assert (provider["disableDeletion"], provider["allowUiUpdates"]) == (True, False)
    assert (source["type"], source["jsonData"]["timeInterval"]) == ("prometheus", "5s")


@dataclass(frozen=True)
class Exported:
    """What a fabric exported at two moments: in calm, and after it had healed and blocked."""

    before: str
    after: str
    at: float  # the moment of the second one


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Exported]:
    """A real fabric whose loop does not run: one incident is being repaired, one is escalated."""
    folder, at = tmp_path_factory.mktemp("fabric"), time.time() - 3600
    services: dict[str, Any] = {"tokenguard": {}, "trustguard": {}, "guardian-one": {}}
    fabric = Fabric(Settings.model_validate({"store": f"sqlite:///{folder}/shf.db", "services": services}))
    try:
        client, metrics = create_app(fabric).test_client(), fabric.context.metrics
        metrics.actions.labels("guardian-one", "restart", "succeeded").inc(5)
        metrics.blocks.labels("tokenguard", "cooldown").inc(5)
        before = client.get("/metrics").text
        open_incident(fabric, "tokenguard", State.RECOVERING, at - OPENED)
        open_incident(fabric, "trustguard", State.ESCALATED, at - OPENED)
        metrics.resolved.labels("guardian-one", "healed").inc(3)
        metrics.resolved.labels("guardian-one", "recovered").inc()
        for _ in range(4):
            metrics.recover_seconds.labels("guardian-one").observe(25)
        metrics.actions.labels("guardian-one", "restart", "succeeded").inc(3)
        metrics.blocks.labels("tokenguard", "cooldown").inc(2)
        yield Exported(before, client.get("/metrics").text, at)
    finally:
        fabric.stop()


def open_incident(fabric: Fabric, service: str, state: State, at: float) -> None:
    """An incident that the fabric exports."""
    values = {
        "id": f"20260101-000000-{service}",
        "subject": service,
        "service": service,
        "known_service": True,
        "title": "down",
        "severity": "critical",
        "signal": "heartbeat",
        "state": state.value,
        "opened_at": at,
        "updated_at": at,
        "plan": [],
    }
    fabric.store.write(lambda connection: statements.insert_incidents(connection, [values]))


@pytest.mark.parametrize("panel", PANELS)
def test_every_metric_of_a_query_is_exported(panel: Panel, exported: Exported) -> None:
    """By its full name, from a fabric's own /metrics."""
    families = list(text_string_to_metric_families(exported.after))
    names = {sample.name for family in families for sample in family.samples}
    for expression in expressions(panel):
        asked = set(re.findall(r"\bshf_\w+", expression))
        assert asked
        assert asked <= names


def require_prometheus() -> None:
    """Skip, loudly, where there is no Prometheus; fail where CI promised one."""
    missing = [name for name in ("prometheus", "promtool") if shutil.which(name) is None]
    if missing:
        reason = f"the dashboards' queries need a real Prometheus: no {' and no '.join(missing)} on PATH"
        pytest.fail(reason) if os.environ.get("CI") == "true" else pytest.skip(reason)


def open_metrics(exported: Exported) -> str:
    """Half an hour of scrapes, one every 15 s: in the last 5 min with what happened."""
    start, lines = exported.at - 1800, []
    for moment in range(0, 1801, 15):
        text = exported.after if moment >= 1500 else exported.before
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                labels = ",".join(f'{name}="{value}"' for name, value in sample.labels.items())
                lines.append(f"{sample.name}{{{labels}}} {sample.value} {start + moment:.3f}")
    return "\n".join([*lines, "# EOF\n"])


@pytest.fixture(scope="module")
def prometheus(exported: Exported, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a real Prometheus that remembers what the fabric exported."""
    require_prometheus()
    folder = tmp_path_factory.mktemp("prometheus")
    samples, configuration = folder / "samples", folder / "prometheus.yml"
    samples.write_text(open_metrics(exported))
    configuration.write_text("{}")
    imported = ["promtool", "tsdb", "create-blocks-from", "openmetrics", str(samples), str(folder / "data")]
    subprocess.run(imported, check=True, capture_output=True, timeout=120)
    (port,) = free_ports(1)
    url = f"http://127.0.0.1:{port}"
    command = ["prometheus", f"--config.file={configuration}", f"--storage.tsdb.path={folder / 'data'}"]
    command += [f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn"]
    with Server("prometheus", command, f"{url}/-/ready", folder / "log", environment=os.environ) as server:
        server.wait_ready()
        yield url


def ask(prometheus: str, panel: Panel, at: float) -> list[dict[str, Any]]:
    """What the panel's query answers for one moment. Fails with Prometheus's words when it does not parse."""
    (expression,) = expressions(panel)
    parameters = {"query": expression, "time": f"{at:.3f}"}
    answer = httpx.get(f"{prometheus}/api/v1/query", params=parameters, trust_env=False).json()
    assert answer["status"] == "success", f"{answer.get('error')}: {expression}"
    found: list[dict[str, Any]] = answer["data"]["result"]
    return found


SHOWN = {
    "Open incidents": 2.0,
    "Escalated": 1.0,
    "Healed without a human": 0.75,
    "Median time to recover": 25.0,
    "Guardrail blocks": 2.0,
    "Mode": 1.0,
}


@pytest.mark.e2e
@pytest.mark.parametrize("title", SHOWN)
def test_a_number_shows_what_happened(title: str, prometheus: str, exported: Exported) -> None:
    """On the samples of a fabric of which it is known."""
    (result,) = ask(prometheus, panel_called(title), exported.at)
    assert float(result["value"][1]) == pytest.approx(SHOWN[title])


@pytest.mark.e2e
def test_the_table_has_a_row_for_each_open_incident(prometheus: str, exported: Exported) -> None:
    """With its state of now and since when it is open."""
    rows = ask(prometheus, panel_called("Open incidents in detail"), exported.at)
    labels = ("service", "severity", "signal", "state")
    assert sorted(tuple(row["metric"][label] for label in labels) for row in rows) == [
        ("tokenguard", "critical", "heartbeat", "recovering"),
        ("trustguard", "critical", "heartbeat", "escalated"),
    ]
    assert [float(row["value"][1]) for row in rows] == pytest.approx([OPENED, OPENED], abs=1)


@pytest.mark.e2e
def test_the_timeline_shows_each_service(prometheus: str, exported: Exported) -> None:
    """Healthy, healing and escalated."""
    rows = ask(prometheus, panel_called("State of the services"), exported.at)
    assert {row["metric"]["service"]: row["value"][1] for row in rows} == {
        "guardian-one": "0",
        "tokenguard": "1",
        "trustguard": "2",
    }


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("title", "by", "name", "number"),
    [
        ("Recovery actions by outcome", "outcome", "succeeded", "3"),
        ("Guardrail blocks by guardrail", "guardrail", "cooldown", "2"),
    ],
)
def test_bars_count_whole_events(
    title: str, by: str, name: str, number: str, prometheus: str, exported: Exported
) -> None:
    """In the minute in which they happened, never 1.33; everything else is there, at 0."""
    rows = ask(prometheus, panel_called(title), exported.at - 1800 + 1500 + 30)
    counts = {row["metric"][by]: row["value"][1] for row in rows}
    assert counts.pop(name) == number
    assert set(counts.values()) == {"0"}


@pytest.mark.e2e
@pytest.mark.parametrize("title", ["Open incidents", "Escalated", "Mode", "State of the services"])
def test_without_a_fabric_there_is_no_data(title: str, prometheus: str, exported: Exported) -> None:
    """Half an hour after the last scrape nothing may look as if all were well, not even a zero."""
    assert ask(prometheus, panel_called(title), exported.at + 1800) == []


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("title", "value"),
    [("Open incidents", "0"), ("Escalated", "0"), ("Guardrail blocks", "0"), ("Mode", "1")],
)
def test_a_calm_fabric_has_numbers(title: str, value: str, prometheus: str, exported: Exported) -> None:
    """Before anything happened: zero, which is not the same as no data."""
    (result,) = ask(prometheus, panel_called(title), exported.at - 600)
    assert result["value"][1] == value


@pytest.mark.e2e
def test_the_choices_of_the_service_variable_are_exported(prometheus: str, exported: Exported) -> None:
    """The variable lists the configured services."""
    (variable,) = (each for each in OVERVIEW["templating"]["list"] if each["name"] == "service")
    asked = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["query"])
    assert asked is not None
    parameters = {"match[]": asked[1], "start": f"{exported.at - 60:.0f}", "end": f"{exported.at:.0f}"}
    url = f"{prometheus}/api/v1/label/{asked[2]}/values"
    values = httpx.get(url, params=parameters, trust_env=False).json()["data"]
    assert values == ["guardian-one", "tokenguard", "trustguard"]
