"""Makes what a plugin adds: found, called under a limit of time; its failure is one of the configuration.

So is a plugin that made something else. It would be noticed when it is needed: when somebody is to be called.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from self_healing_fabric.errors import ConfigurationError, Problem
from self_healing_fabric.extensions.bounded import Misbehaved, call
from self_healing_fabric.extensions.entry_points import PluginUnusable, load

METHODS: Mapping[str, tuple[str, ...]] = {
    "strategies": ("on",),
    "guardrails": ("check",),
    "channels": ("send", "check"),
    "event_sinks": ("send",),
}


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
        ConfigurationError: it cannot be imported, raised, took too long, or made something without METHODS.
    """
    try:
        factory = load(group, name)
        if options is None and getattr(factory, "Options", None) is not None:
            options = factory.Options()
        return call(f"plugin {name}", lambda: _complete(group, factory(settings, options)), within=within)
    except (PluginUnusable, Misbehaved) as error:
        problem = (
            Problem(f"plugins.{group}.{name}", str(error))
            if section is None
            else Problem(section, f"{name}: {error}")
        )
        raise ConfigurationError("the configuration", [problem]) from error


def _complete(group: str, made: Any) -> Any:
    missing = [name for name in METHODS[group] if not callable(getattr(made, name, None))]
    if missing:
        raise TypeError(f"what it made ({type(made).__name__}) has no method {' and no '.join(missing)}")
    return made
