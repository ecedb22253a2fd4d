"""An evidence source that another package adds: asked beside the others, and dropped when its time is over.

The entry point names a factory, called with the service's name and the validated options of
`services.NAME.evidence_sources.NAME`; what it returns has `look(at, within)`, as the built-in ones.
"""

from __future__ import annotations

from typing import Any

from self_healing_fabric.diagnosis.sources import Report, SourceUnusable
from self_healing_fabric.extensions import Misbehaved, PluginUnusable, call, load

MOST_FACTS = 50  # of one answer; a plugin that floods must not hide what the others saw


class SourceOfPlugin:
    """The source that a plugin makes for one service, when it is asked."""

    def __init__(self, name: str, service: str, options: Any) -> None:
        self.name = name
        self._service, self._options = service, options

    def look(self, at: float, within: float) -> Report:
        """What the plugin saw. Raises SourceUnusable when it raises, hangs or answers no report."""

        def ask() -> Any:
            return load("evidence_sources", self.name)(self._service, self._options).look(at, within)

        try:
            report = call(f"plugin {self.name}", ask, within=within, passes=(SourceUnusable, PluginUnusable))
        except (Misbehaved, PluginUnusable) as error:
            raise SourceUnusable(str(error)) from error
        if not isinstance(report, Report):
            raise SourceUnusable(f"it answered {type(report).__name__}, not a Report")
        return Report(report.facts[:MOST_FACTS], report.changes[:MOST_FACTS], report.missing[:MOST_FACTS])
