"""The five levels of escalation: whom each calls, by which channel, and when the next one follows."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from self_healing_fabric.durations import Duration
from self_healing_fabric.settings.plugins import ChannelOptions
from self_healing_fabric.settings.values import CalledUrl, Section

ALL_GUARDIANS = "all guardians"  # in a level's `call`: everyone whom a channel of the kind guardian reaches
LOG = "log"  # the channel that hears of every call

Tier = Literal["critical", "standard", "low"]
StartLevel = Annotated[int, Field(ge=1, le=4)]
GuardianDecision = Literal["acknowledge", "approve", "reject", "propose"]


class LevelSettings(Section):
    """One level of escalation: whom it calls, and how long it waits before the next level."""

    name: str = Field(description="what people call it")
    call: tuple[str, ...] = Field((), description="whom it calls; `all guardians` is everyone over HTTP")
    deadline: Duration = Field(
        300.0, gt=0, description="without healing or acknowledgement until the next level"
    )
    reach_within: Duration = Field(
        60.0, gt=0, description="a call is tried again for so long; reached nobody, the next level is called"
    )


DEFAULT_LEVELS = (
    LevelSettings(name="self-healing"),
    LevelSettings(name="execution orchestrator", call=("guardian-five",)),
    LevelSettings(name="memory and alignment", call=("guardian-six", "guardian-three")),
    LevelSettings(name="emergence and synthesis", call=("guardian-seven", "guardian-two")),
    LevelSettings(name="everyone and a human", call=(ALL_GUARDIANS, "human")),
)


class GuardianChannel(Section):
    """A program that is called over HTTP with the whole incident, and may answer with a decision."""

    url: CalledUrl = Field(description="called with POST")
    secret_file: Path = Field(description="signs the calls; read anew for every call")
    timeout: Duration = Field(5.0, gt=0, le=30, description="for one try")
    may: tuple[GuardianDecision, ...] = Field(
        ("acknowledge", "approve", "reject", "propose"), description="decisions that its answer may carry"
    )


class AppriseChannel(Section):
    """People, through what apprise knows: mail, chat, SMS, pagers."""

    urls_file: Path = Field(description="apprise's URLs, one a line; read anew for every call")


class AlertmanagerChannel(Section):
    """An alert with the label `escalation_level`, for the routes and on-call rotas that exist."""

    urls: tuple[CalledUrl, ...] = Field(
        (), description="every Alertmanager of the cluster; `alertmanager.url` by default"
    )
    timeout: Duration = Field(5.0, gt=0, le=30, description="for one try")
    expires: Duration = Field(
        300.0, ge=30, description="an alert that is not kept alive ends after so long; kept alive three times"
    )


class ChannelSettings(Section):
    """One way to reach somebody; of one kind."""

    guardian: GuardianChannel | None = Field(None, description="a program over HTTP")
    apprise: AppriseChannel | None = Field(None, description="people, extra `apprise`")
    alertmanager: AlertmanagerChannel | None = Field(None, description="an alert in Alertmanager")
    plugin: ChannelOptions | None = Field(
        None, description="a [plugin](plugins.md), and its options: `{NAME: {...}}`"
    )

    @model_validator(mode="after")
    def _one_kind(self) -> ChannelSettings:
        if sum(value is not None for _, value in self) != 1:
            raise ValueError(f"give exactly one of: {', '.join(type(self).model_fields)}")
        if self.plugin is not None and len(self.plugin) != 1:
            raise ValueError(f"`plugin` takes one plugin, not {len(self.plugin)}")
        return self

    @property
    def kind(self) -> str:
        """The name of the kind that is given."""
        return next((name for name, value in self if value is not None), "")


class TierPolicy(Section):
    """What is at stake decides how high the first call goes, and how soon."""

    start_level: StartLevel = Field(1, description="the first level that is called")
    call_at_once: bool = Field(False, description="it is called when the incident opens, beside the healing")


class ServicePolicy(Section):
    """As `escalation.tiers.NAME`, where a service differs from its tier."""

    start_level: StartLevel | None = Field(None, description="the first level that is called")
    call_at_once: bool | None = Field(None, description="it is called when the incident opens")


class BoundsSettings(Section):
    """How much one contact hears over one channel; the log and Alertmanager hear everything."""

    gather: Duration = Field(1.0, ge=0, le=4, description="calls are collected for so long before one goes")
    storm: int = Field(4, ge=2, description="so many collected calls are one message that lists them")
    storm_interval: Duration = Field(60.0, gt=0, description="after such a message until the next")
    messages: int = Field(10, ge=2, description="at most, in `per`; the last lists what waits")
    per: Duration = Field(600.0, gt=0, description="the window of `messages`")


class PageHoldSettings(Section):
    """Holds the page while the fabric heals: keeps the alert ShfHealing alive in Alertmanager."""

    urls: tuple[CalledUrl, ...] = Field(
        (), description="every Alertmanager of the cluster; `alertmanager.url` by default"
    )
    deadline: Duration = Field(300.0, gt=0, description="after the incident opened; then the page goes out")
    below_level: StartLevel = Field(1, description="the page goes out when this level is called")


class EscalationSettings(Section):
    """The five levels, and how long an incident may wait for an unreachable server before one is called."""

    levels: tuple[LevelSettings, ...] = Field(
        DEFAULT_LEVELS, min_length=5, max_length=5, description="levels 0 to 4"
    )
    channels: Mapping[str, ChannelSettings] = Field({}, description="how people and guardians are reached")
    contacts: Mapping[str, tuple[str, ...]] = Field(
        {}, description="the channels of whom a level calls; by default the one that has the same name"
    )
    tiers: Mapping[Tier, TierPolicy] = Field({}, description="how high and how soon, by tier")
    bounds: BoundsSettings = Field(BoundsSettings(), description="how much one contact hears")
    hold_page: PageHoldSettings | None = Field(None, description="a page only when healing fails")
    max_wait: Duration = Field(
        300.0, gt=0, description="an incident may wait for a server; then people hear of it"
    )

    @model_validator(mode="after")
    def _known_channels(self) -> EscalationSettings:
        for contact, names in self.contacts.items():
            for name in names:
                if name not in self.channels:
                    raise ValueError(f"contacts.{contact}: no channel is called `{name}`")
        if LOG in self.channels:
            raise ValueError(f"channels.{LOG}: the log hears of every call; give the channel another name")
        return self

    def channels_of(self, contact: str) -> tuple[str, ...]:
        """The names of the channels that reach a contact; none when only the log hears of it."""
        if contact in self.contacts:
            return self.contacts[contact]
        return (contact,) if contact in self.channels else ()

    def contacts_of(self, level: int) -> tuple[str, ...]:
        """Whom a level calls, each once; `all guardians` is spelt out where any is known."""
        of_others = {name for names in self.contacts.values() for name in names}
        known = [*self.contacts, *(name for name in self.channels if name not in of_others)]
        guardians = [
            contact
            for contact in known
            if any(self.channels[name].kind == "guardian" for name in self.channels_of(contact))
        ]
        found: list[str] = []
        for contact in self.levels[level].call:
            found += guardians if contact == ALL_GUARDIANS and guardians else [contact]
        return tuple(dict.fromkeys(found))
