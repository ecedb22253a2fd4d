"""What a value may be: names, URLs, modes and shares, and the base of every section."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import Annotated, Any, get_args, get_origin
from urllib.parse import urlsplit

import httpx
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from self_healing_fabric.extensions import names

_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,126}[A-Za-z0-9])?")


def _name(value: str) -> str:
    if not _NAME.fullmatch(value):
        raise ValueError(
            "a name has letters, digits, `.`, `_` and `-`, at most 128 in all, the first and the last one a "
            "letter or a digit"
        )
    return value


def _service_name(value: str) -> str:
    try:
        return _name(value)
    except ValueError as error:
        raise ValueError(f"{error} (docs/signals.md shows how targets get the label `service`)") from None


Name = Annotated[str, AfterValidator(_name)]
ServiceName = Annotated[str, AfterValidator(_service_name)]

UNDO = "undo"
"""The strategy that takes back what another one did; no plan can name it, and it heals nothing."""


def _strategy(name: str) -> str:
    """One that is built in or installed, and that a plan can name."""
    known = [each for each in names("strategies") if each != UNDO]
    if name not in known:
        raise ValueError(f"no strategy is called so; built in or installed: {', '.join(known)}")
    return name


StrategyName = Annotated[str, AfterValidator(_strategy)]


class Mode(StrEnum):
    """What the fabric may do: act, ask first, only say what it would do, or nothing at all."""

    AUTOMATIC = "automatic"
    APPROVAL = "approval"
    DRY_RUN = "dry_run"
    PAUSED = "paused"


class CpuAffinity(StrEnum):
    """On which of the CPUs that it may use the fabric runs."""

    ONE = "one"
    ALL = "all"


def _http_url(value: str) -> str:
    """Accept an absolute http(s) URL with a host; anything else could be turned into another kind of call."""
    parts = urlsplit(value)  # raises ValueError for brackets, `port` for ports that cannot be
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0 or not _is_word(value):
        raise ValueError("give an absolute URL that starts with http:// or https://")
    if parts.username is not None or parts.password is not None:
        # A URL is shown in timelines, logs and pages.
        raise ValueError("leave user and password out of the URL: secrets belong into files")
    try:
        _ = httpx.URL(value).host  # as the clients will read it
    except (httpx.InvalidURL, ValueError) as error:
        raise ValueError(f"nothing can be called {parts.hostname}: {error}") from error
    return value.rstrip("/") if parts.path == "/" else value


def _is_word(text: str) -> bool:
    return text.isprintable() and " " not in text


class _Called:
    """Marks the URLs that the fabric calls; the others are only shown."""


HttpUrl = Annotated[str, AfterValidator(_http_url)]
CalledUrl = Annotated[HttpUrl, _Called()]


class Section(BaseModel):
    """A part of the configuration: immutable, and refusing keys that it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    @model_validator(mode="before")
    @classmethod
    def _given(cls, raw: Any) -> Any:
        return given(cls, raw)


def given(section: type[BaseModel], raw: Any) -> Any:
    """What is given for a section, without names of parts below which nothing stands.

    In YAML such a part is null, for example because all its lines are comments; it is as good as not there.
    """
    if raw is None:
        return {}
    if not isinstance(raw, Mapping):
        return raw
    return {name: value for name, value in raw.items() if value is not None or not _is_part(section, name)}


def _is_part(section: type[BaseModel], name: Any) -> bool:
    field = section.model_fields.get(name)
    annotation = field.annotation if field is not None else None
    is_section = isinstance(annotation, type) and issubclass(annotation, BaseModel)
    return is_section or get_origin(annotation) is Mapping


def called_urls(section: BaseModel) -> Iterator[str]:
    """The URLs in a section of the configuration, and in those within it, that the fabric calls."""
    called = _fields_of_called_urls(type(section))
    for name in type(section).model_fields:
        yield from _called_in(getattr(section, name), called=name in called)


def _called_in(value: Any, *, called: bool) -> Iterator[str]:
    if isinstance(value, BaseModel):
        yield from called_urls(value)
    elif isinstance(value, str):
        if called:
            yield value
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from _called_in(each, called=called)
    elif isinstance(value, tuple):
        for each in value:
            yield from _called_in(each, called=called)


@functools.cache
def _fields_of_called_urls(section: type[BaseModel]) -> frozenset[str]:
    fields = section.model_fields.items()
    return frozenset(
        name for name, field in fields if _is_marked((*field.metadata, *get_args(field.annotation)))
    )


def _is_marked(parts: tuple[Any, ...]) -> bool:
    """Whether the mark is among the parts of `X | None`, `tuple[X, ...]` or `Annotated[X, ...]`."""
    return any(isinstance(each, _Called) or _is_marked(get_args(each)) for each in parts)


def _share(value: int | str) -> int | str:
    """A number, or a share of all services as `25%`."""
    if isinstance(value, int):
        return value
    digits = value.removesuffix("%")
    if not value.endswith("%") or not digits.isascii() or not digits.isdigit() or not 0 <= int(digits) <= 100:
        raise ValueError("give a number, or a percentage from 0% to 100%")
    return value


Share = Annotated[Annotated[int, Field(ge=0)] | str, AfterValidator(_share)]


def number_of(share: int | str, total: int) -> int:
    """The number that a share of `total` is, rounded down; a share that is not 0 % allows at least one."""
    if isinstance(share, int):
        return share
    percent = int(share.removesuffix("%"))
    return max(1, total * percent // 100) if percent else 0
