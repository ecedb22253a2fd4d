"""Whoever reads the messages of a storm finds every incident of it, though a message names but fifty."""

from __future__ import annotations

import json
import re
import shlex
from contextlib import ExitStack
from pathlib import Path

import pytest
from alert_flood import Flood
from click.testing import CliRunner
from receivers import Reader
from served_fabric import one_alert_each, served_fabric, stubbed_world

from self_healing_fabric.cli import main
from shf_demo.ports import reserved_ports

pytestmark = pytest.mark.e2e

SERVICES = 130
PATIENCE = 120.0  # seconds, for busy machines
_PAGE = re.compile(r"All of these: http://[^/]+(/\S+)")
_COMMAND = re.compile(r"more: shf (.+)")
_NAMED = re.compile(r"^(\S+) \"s\d{4}\": ", re.MULTILINE)
_SHOWN = re.compile(r'href="/incidents/([\w.-]+)"')


def test_every_incident_is_found_by_the_link_and_by_the_command_of_its_message(tmp_path: Path) -> None:
    """And nothing else: what another message told of is in that one."""
    levels = [{"name": f"level {number}", "call": ["human"] if number else []} for number in range(5)]
    with ExitStack() as stack:
        reader = stack.enter_context(Reader())
        (tmp_path / "urls").write_text(reader.url.replace("http://", "json://"))
        world = stack.enter_context(
            stubbed_world(tmp_path, services=SERVICES, incurable=SERVICES, alerts=1, repair_seconds=0.1)
        )
        (port,) = stack.enter_context(reserved_ports(1))
        url = f"http://127.0.0.1:{port}"
        fabric = stack.enter_context(
            served_fabric(
                tmp_path,
                listen=url.removeprefix("http://"),
                external_url=url,
                prometheus={"url": world.url, "scrape_interval": "500ms", "evaluation_interval": "500ms"},
                services={f"s{number:04}": {} for number in range(SERVICES)},
                escalation={
                    "levels": levels,
                    "channels": {"human": {"apprise": {"urls_file": str(tmp_path / "urls")}}},
                    "bounds": {"gather": "4s", "storm_interval": "5s"},
                },
                guardrails={"fleet": {"storm": "100%"}},
            )
        )
        with Flood(fabric.url, one_alert_each(SERVICES), connections=4) as flood:
            flood.join(PATIENCE)

        def told() -> int:
            calls = [fabric.http.get(f"/api/v1/incidents/{each['id']}") for each in fabric.incidents()]
            return sum(
                any(call["channel"] == "human" and call["sent_at"] for call in answer.json()["calls"])
                for answer in calls
            )

        fabric.wait("all told", lambda: told() == SERVICES, PATIENCE)
        found: list[str] = []
        for body in reader.bodies:
            named, page = set(_NAMED.findall(body)), _PAGE.search(body)
            if page is None:  # of a single incident
                found += re.findall(r"^Incident: \S+/incidents/(\S+)$", body, re.MULTILINE)
                continue
            shown = _SHOWN.findall(fabric.http.get(page[1]).raise_for_status().text)
            assert named <= set(shown)
            found += shown
            if command := _COMMAND.search(body):
                arguments = [*shlex.split(command[1]), "--url", fabric.url, "--json"]
                listed = json.loads(CliRunner().invoke(main, arguments).stdout)["incidents"]
                assert sorted(each["id"] for each in listed) == sorted(shown)
        assert any(_COMMAND.search(body) for body in reader.bodies)  # one of them names but fifty
        assert sorted(found) == sorted(each["id"] for each in fabric.incidents())
