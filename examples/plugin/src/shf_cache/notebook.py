"""Channel `notebook`: writes each message into a file, one line of JSON, once."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from self_healing_fabric.escalation.channels import CallFailed, Receipt
from self_healing_fabric.escalation.messages import Message
from self_healing_fabric.settings import Settings


class Options(BaseModel):
    """The section `escalation.channels.NAME.plugin.notebook`."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    file: Path = Field(description="gets a line for each message")


class Notebook:
    """Its receiver is a person who reads the file."""

    Options = Options
    gathers = True

    def __init__(self, settings: Settings, options: Options) -> None:
        self._file = options.file

    def send(self, message: Message, progress: Mapping[str, Any]) -> Receipt:
        """Write it, unless a try before a crash has done so: the key is the same."""
        line = json.dumps({"key": message.key, "title": message.title, "body": message.body})
        try:
            with self._file.open("a+", encoding="utf-8") as file:
                file.seek(0)
                if not any(json.loads(each)["key"] == message.key for each in file):
                    file.write(f"{line}\n")
        except (OSError, ValueError) as error:
            raise CallFailed(f"{self._file} cannot be written: {error}") from error
        return Receipt()

    def check(self) -> str:
        """Whether there is a folder for it."""
        return "can be written" if self._file.parent.is_dir() else f"{self._file.parent} does not exist"
