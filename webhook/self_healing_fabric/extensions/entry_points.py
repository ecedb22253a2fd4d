"""Which plugins are installed: Python's entry points, one group for each kind of extension.

Looking at entry points reads the metadata of packages and imports nothing, so a plugin that nobody uses costs
nothing and cannot break anything. A plugin that has the name of a built-in one is never used: an installed
package must not be able to replace `restart` behind the operator's back.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

from self_healing_fabric.errors import ShfError, words_of

PREFIX = "self_healing_fabric."
BUILT_IN: Mapping[str, tuple[str, ...]] = {
    "strategies": ("retry", "restart", "scale", "evict", "rollback", "repair", "sync", "undo"),
    "platforms": ("http", "docker", "kubernetes"),
    "evidence_sources": ("prometheus", "health", "docker", "kubernetes"),
    "guardrails": (
        "mode",
        "maintenance",
        "storm",
        "one_at_a_time",
        "fleet_at_once",
        "max_failures",
        "max_heals",
        "max_actions",
        "cooldown",
        "fleet_targets",
        "deploying",
        "min_healthy",
        "boundary",
    ),
    "channels": ("log", "guardian", "apprise", "alertmanager"),
    "event_sinks": ("http",),
}
GROUPS = tuple(BUILT_IN)


class PluginUnusable(ShfError):
    """A plugin cannot be found, imported or read: install it, or correct it."""


@dataclass(frozen=True)
class Plugin:
    """One installed plugin: its kind, its name in the configuration, and the package that brings it."""

    group: str
    name: str
    distribution: str
    version: str
    entry_point: EntryPoint

    def __str__(self) -> str:
        return f"{self.name} of {self.distribution} {self.version}"


def installed(group: str) -> Mapping[str, tuple[Plugin, ...]]:
    """The plugins of a group by name; two under one name when two packages bring it."""
    return _installed(group, tuple(sys.path))


@lru_cache(maxsize=32)
def _installed(group: str, _: tuple[str, ...]) -> Mapping[str, tuple[Plugin, ...]]:
    found: dict[str, dict[str, Plugin]] = {}
    for point in sorted(entry_points(group=PREFIX + group)):
        distribution = point.dist.name if point.dist else "unknown"
        version = point.dist.version if point.dist else "unknown"
        plugin = Plugin(group, point.name, distribution, version, point)
        found.setdefault(point.name, {}).setdefault(distribution, plugin)
    return {name: tuple(each.values()) for name, each in found.items()}


def clashes(group: str) -> tuple[Plugin, ...]:
    """The plugins that are never used, because a built-in one has their name."""
    reserved = BUILT_IN[group]
    return tuple(plugin for name in reserved for plugin in installed(group).get(name, ()))


def names(group: str) -> tuple[str, ...]:
    """What the configuration may name: built in, then installed."""
    return (*BUILT_IN[group], *(name for name in installed(group) if name not in BUILT_IN[group]))


def load(group: str, name: str) -> Any:
    """Import a plugin; return what its entry point names. Raises PluginUnusable."""
    plugins = installed(group).get(name, ()) if name not in BUILT_IN[group] else ()
    kind = group.replace("_", " ")
    if not plugins:
        known = ", ".join(sorted(set(installed(group)) - set(BUILT_IN[group]))) or "none"
        raise PluginUnusable(f"no plugin `{name}` is installed among the {kind} (installed: {known})")
    if len(plugins) > 1:
        both = " and ".join(each.distribution for each in plugins)
        raise PluginUnusable(f"`{name}` is brought by {both}: uninstall one of them")
    try:
        factory = plugins[0].entry_point.load()
    except (Exception, SystemExit) as error:  # it is somebody else's module: it may raise anything
        told = f"{type(error).__name__}: {error}"
        raise PluginUnusable(f"the plugin {plugins[0]} cannot be imported: {told}") from error
    if not callable(factory):
        raise PluginUnusable(f"the plugin {plugins[0]} names {factory!r}, which cannot be called")
    return factory


def options_of(
    group: str, given: Mapping[str, Any], under: tuple[str, ...] = ()
) -> Mapping[str, BaseModel | None]:
    """Validate the options of plugins, each by the pydantic model that its factory has as `Options`.

    Raises ValidationError with every problem of all of them, each under `under` and the plugin's name.
    """
    problems: list[InitErrorDetails] = []
    found: dict[str, BaseModel | None] = {}

    def note(location: tuple[int | str, ...], message: str, value: Any) -> None:
        error = PydanticCustomError("plugin", "{message}", {"message": message})
        problems.append(InitErrorDetails(type=error, loc=(*under, *location), input=value))

    for name, raw in given.items():
        try:
            model = getattr(load(group, name), "Options", None)
            if model is None:
                if raw not in ({}, None):
                    raise PluginUnusable(f"the plugin `{name}` takes no options")
                found[name] = None
            elif isinstance(model, type) and issubclass(model, BaseModel):
                found[name] = model.model_validate({} if raw is None else raw)
            else:
                raise PluginUnusable(f"`Options` of the plugin `{name}` is no pydantic model")
        except PluginUnusable as error:
            note((name,), str(error), raw)
        except ValidationError as error:
            for detail in error.errors():
                unknown = detail["type"] == "extra_forbidden"
                message = "unknown setting" if unknown else words_of(detail["msg"])
                note((name, *detail["loc"]), message, detail["input"])
        except Exception as error:  # noqa: BLE001 - a validator of the plugin may raise anything
            note((name,), f"its `Options` cannot be validated: {type(error).__name__}: {error}", raw)
    if problems:
        raise ValidationError.from_exception_data(f"plugins of {group}", problems)
    return found
