"""Real servers around the examples: Prometheus, Alertmanager, a few services that really fail, no fabric.

They are the demo's (`shf demo`), so `make demo` tells what is missing on your machine. In your own program
all of this exists already, and you name it in the configuration.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from shf_demo.fleet import FLEET
from shf_demo.servers import Server
from shf_demo.stack import Stack

SERVICES = ("guardian-one", "guardian-two", "tokenguard", "trustguard")


class Servers(Stack):
    """The demo's servers without its fabric, which is what the example brings."""

    def __init__(self, workdir: Path) -> None:
        super().__init__(workdir, services=[each for each in FLEET if each.name in SERVICES])

    def servers(self) -> tuple[Server, ...]:
        """In the order of their start."""
        return self.blackbox, self.alertmanager, self.prometheus

    @property
    def configuration(self) -> dict[str, Any]:
        """The fabric's configuration for these servers, without the services: the program knows those."""
        values: dict[str, Any] = yaml.safe_load(self.configuration_file.read_text())
        del values["services"]
        return values

    @property
    def modules(self) -> dict[str, dict[str, Any]]:
        """The services, each as in the section `services` of the configuration."""
        values: dict[str, Any] = yaml.safe_load(self.configuration_file.read_text())
        return dict(values["services"])
