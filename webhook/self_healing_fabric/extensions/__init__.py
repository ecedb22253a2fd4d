"""What others add: which plugins are installed, and calls into code that is not ours and may hang.

A plugin is found by its entry point and does nothing until the configuration names it. Its code runs in this
process, so it is trusted with whatever the fabric may do; what it is not trusted with is to return. Therefore
it is found and imported here (`entry_points`), and called here (`bounded`), and nowhere else.
"""

from __future__ import annotations

from self_healing_fabric.extensions.bounded import Begun, Misbehaved, begin, call
from self_healing_fabric.extensions.entry_points import (
    BUILT_IN,
    GROUPS,
    Plugin,
    PluginUnusable,
    clashes,
    installed,
    load,
    names,
    options_of,
)
from self_healing_fabric.extensions.making import make

__all__ = [
    "BUILT_IN",
    "GROUPS",
    "Begun",
    "Misbehaved",
    "Plugin",
    "PluginUnusable",
    "begin",
    "call",
    "clashes",
    "installed",
    "load",
    "make",
    "names",
    "options_of",
]
