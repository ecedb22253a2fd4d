"""Makes what a plugin adds: found, called under a limit of time; its failure is one of the configuration."""

from __future__ import annotations

from functools import partial
from typing import Any

from self_healing_fabric.errors import ConfigurationError, Problem
from self_healing_fabric.extensions.bounded import Misbehaved, call
from self_healing_fabric.extensions.entry_points import PluginUnusable, load


def make(
    group: str, name: str, settings: Any, options: Any, *, within: float, section: str | None = None
) -> Any:
    """What the plugin's factory makes of the settings and of its options; of its own defaults without any.

    Args:
        group: of `GROUPS`.
        name: the entry point.
        settings: the whole configuration.
        options: what the configuration gives the plugin, validated.
        within: seconds that it may take.
        section: the part of the configuration that names the plugin, where that is not `plugins.GROUP.NAME`.

    Raises:
        ConfigurationError: it cannot be imported, raised, or took too long.
    """
    try:
        factory = load(group, name)
        if options is None and getattr(factory, "Options", None) is not None:
            options = factory.Options()
        return call(f"plugin {name}", partial(factory, settings, options), within=within)
    except (PluginUnusable, Misbehaved) as error:
        problem = (
            Problem(f"plugins.{group}.{name}", str(error))
            if section is None
            else Problem(section, f"{name}: {error}")
        )
        raise ConfigurationError("the configuration", [problem]) from error
