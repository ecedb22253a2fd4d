"""Servers are found under any of their names, and one that does not come up says why."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from shf_demo.errors import DemoError
from shf_demo.ports import free_ports
from shf_demo.servers import Server, find_programs

UPSTREAM = ("prometheus", "alertmanager", "blackbox_exporter")
DEBIAN = ("prometheus", "prometheus-alertmanager", "prometheus-blackbox-exporter")


def put_on_path(monkeypatch: pytest.MonkeyPatch, directory: Path, names: tuple[str, ...]) -> None:
    for name in names:
        program = directory / name
        program.write_text("#!/bin/sh\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", str(directory))


@pytest.mark.parametrize("names", [UPSTREAM, DEBIAN])
def test_programs_are_found_under_both_families_of_names(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, names: tuple[str, ...]
) -> None:
    """Debian's names and upstream's names are equally good."""
    put_on_path(monkeypatch, tmp_path, names)
    programs = find_programs()
    found = (programs.prometheus, programs.alertmanager, programs.blackbox)
    assert found == tuple(str(tmp_path / name) for name in names)


def test_all_that_is_missing_is_said_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The message names every missing program, the packages to install, and the ways without packages."""
    put_on_path(monkeypatch, tmp_path, ("prometheus",))
    with pytest.raises(DemoError) as raised:
        find_programs()
    message = str(raised.value)
    assert "Alertmanager (prometheus-alertmanager or alertmanager)" in message
    assert "blackbox exporter (prometheus-blackbox-exporter or blackbox_exporter)" in message
    packages = "prometheus-alertmanager prometheus-blackbox-exporter"
    assert f"apt-get install --no-install-recommends {packages}\n" in message
    assert "Homebrew" in message
    assert "release archives" in message


def server(tmp_path: Path, script: str) -> Server:
    (port,) = free_ports(1)
    command = [sys.executable, "-c", script, str(port)]
    url = f"http://127.0.0.1:{port}/ready"
    return Server("oracle", command, url, tmp_path / "oracle.log", environment=os.environ)


READY = """
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def test_a_server_that_ends_shows_the_end_of_its_log(tmp_path: Path) -> None:
    """The reader learns the status and what the server itself said last."""
    script = "print('first'); print('\\n' * 30); print('no oracle without a tripod'); raise SystemExit(3)"
    with server(tmp_path, script) as oracle, pytest.raises(DemoError) as raised:
        oracle.wait_ready()
    assert "oracle has ended with status 3" in str(raised.value)
    assert "no oracle without a tripod" in str(raised.value)
    assert "first" not in str(raised.value)


def test_a_server_that_never_answers_is_given_up(tmp_path: Path) -> None:
    """Running is not ready: after the deadline the wait ends with an error."""
    with server(tmp_path, "import time; time.sleep(60)") as oracle:
        with pytest.raises(DemoError, match="not ready after 0 s"):
            oracle.wait_ready(deadline=0.3)
        oracle.check_running()


def test_a_server_can_be_killed_and_started_again(tmp_path: Path) -> None:
    """Each start is another process, and leaving the block ends the last one."""
    with server(tmp_path, READY) as oracle:
        oracle.wait_ready()
        first = oracle.pid
        oracle.kill()
        oracle.start()
        oracle.wait_ready()
        assert oracle.pid != first
    with pytest.raises(DemoError, match="not running"):
        _ = oracle.pid
