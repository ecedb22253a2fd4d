"""The plugins that are used, and their options: what is installed and not named here does nothing.

Each plugin gives a pydantic model of its options, so a misspelt option is found when the configuration is
read, as everywhere else.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from self_healing_fabric.extensions import options_of
from self_healing_fabric.settings.values import Section


def _valid_options(group: str) -> AfterValidator:
    return AfterValidator(lambda given: options_of(group, given))


# By the plugin's name its options, validated: a pydantic model of the plugin's own, or None.
StrategyOptions = Annotated[Mapping[str, Any], _valid_options("strategies")]
GuardrailOptions = Annotated[Mapping[str, Any], _valid_options("guardrails")]
ChannelOptions = Annotated[Mapping[str, Any], _valid_options("channels")]
EventSinkOptions = Annotated[Mapping[str, Any], _valid_options("event_sinks")]
PlatformOptions = Annotated[Mapping[str, Any], _valid_options("platforms")]
EvidenceOptions = Annotated[Mapping[str, Any], _valid_options("evidence_sources")]


class PluginSettings(Section):
    """[Plugins](plugins.md) that are used everywhere; the others are named where they are used."""

    strategies: StrategyOptions = Field(
        {}, description="options by name; a strategy is used where a plan names it"
    )
    guardrails: GuardrailOptions = Field({}, description="options by name; asked before every effect")
    event_sinks: EventSinkOptions = Field({}, description="options by name; get every event")
