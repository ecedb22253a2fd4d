"""The documented scrape configuration on a real Prometheus: services come from the fabric's own list."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import yaml

from shf_demo.ports import free_ports
from shf_demo.servers import Server, find_programs
from shf_demo.stack import Stack

pytestmark = pytest.mark.e2e

PAGE = Path(__file__).parents[2] / "docs/how-to/one-list-of-services.md"


@pytest.fixture
def prometheus(stack: Stack, tmp_path: Path) -> Iterator[str]:
    """A Prometheus with the page's scrape_configs, pointed at the stack; its URL."""
    (text,) = re.findall(r"```yaml\n(scrape_configs:.*?)```", PAGE.read_text(), re.S)
    text = text.replace("127.0.0.1:9931", stack.fabric_url.removeprefix("http://"))
    text = text.replace("127.0.0.1:9115", stack.blackbox_url.removeprefix("http://"))
    config = {"global": {"scrape_interval": "1s"}, **yaml.safe_load(text)}
    path = tmp_path / "prometheus.yml"
    path.write_text(yaml.safe_dump(config))
    (port,) = free_ports(1)
    url = f"http://127.0.0.1:{port}"
    command = [
        find_programs().prometheus,
        f"--config.file={path}",
        f"--storage.tsdb.path={tmp_path / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    with Server("prometheus", command, f"{url}/-/ready", tmp_path / "log", environment=os.environ) as server:
        server.wait_ready()
        yield url


def test_services_are_scraped_and_probed_as_listed(stack: Stack, prometheus: str) -> None:
    """Each configured service is scraped and probed under its name, and answers."""
    names = {service.name for service in stack.services}

    def answering(query: str) -> set[str]:
        answer = httpx.get(f"{prometheus}/api/v1/query", params={"query": query}, trust_env=False).json()
        return {item["metric"]["service"] for item in answer["data"]["result"]}

    stack.wait_for("all scraped", lambda: answering('up{job="services"} == 1') == names, 40)
    stack.wait_for("all probed", lambda: answering("probe_success == 1") == names, 40)
