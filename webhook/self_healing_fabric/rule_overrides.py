"""The rules' parameters of one installation: its configuration, and what the command line changes.

Rules and fabric must hold services against the same limits, or one alerts on what the other calls healthy. So
the configuration's thresholds and intervals go into the rules, and a `--set` beside them is pointed out: the
fabric exports its own limits, and the rules obey those.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from self_healing_fabric.configuration import config_path, load_settings
from self_healing_fabric.errors import ConfigurationError, Problem, UsageError, words_of
from self_healing_fabric.rules import RuleParameters, configured_parameters


def rule_parameters(changes: Sequence[str], config: Path | None) -> tuple[RuleParameters, list[str]]:
    """Combine the configuration, if there is one, with `NAME=VALUE` changes; also return notes for a person.

    Raises:
        UsageError: a named configuration does not exist, or a change is no pair.
        ConfigurationError: the configuration or the parameters cannot be used.
    """
    try:
        path = config_path(config)
    except UsageError:
        if config is not None:
            raise
        return _validated(name_value_pairs("--set", changes)), []
    settings = load_settings(path)
    parameters = _validated({**configured_parameters(settings), **name_value_pairs("--set", changes)})
    notes = [
        f"{path} says thresholds.{name} = {value}, which the fabric exports and the rules obey"
        for name, value in settings.thresholds.model_dump().items()
        if getattr(parameters, name) != value
    ]
    return parameters, notes


def name_value_pairs(option: str, given: Sequence[str]) -> dict[str, str]:
    """Split `NAME=VALUE` options. Raises UsageError that names the option."""
    for each in given:
        if "=" not in each:
            raise UsageError(f"{option} {each}: write NAME=VALUE")
    return dict(each.split("=", 1) for each in given)


def _validated(values: dict[str, Any]) -> RuleParameters:
    try:
        return RuleParameters(**values)
    except ValidationError as error:
        problems = [
            Problem(
                ".".join(map(str, detail["loc"])),
                "no parameter is called so; `shf rules --list` shows all"
                if detail["type"] == "extra_forbidden"
                else words_of(detail["msg"]),
            )
            for detail in error.errors()
        ]
        raise ConfigurationError("rule parameters", problems) from error
