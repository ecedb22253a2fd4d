"""Which service depends on which: what the configuration says, and what a service graph has measured.

A failure travels from a service to those that depend on it, directly or through others. So of two services
that alert at the same time the one that the other depends on is the likelier cause.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from functools import cached_property


class Topology:
    """An immutable directed graph over the configured services; it may hold cycles.

    Args:
        edges: for each service those that it depends on directly; names outside `services` are ignored.
        services: the nodes.
    """

    def __init__(self, edges: Mapping[str, Iterable[str]], services: Iterable[str]) -> None:
        self.services = frozenset(services)
        self._down = {name: self._known(edges.get(name, ())) - {name} for name in self.services}
        self._found: dict[tuple[str, str], Mapping[str, int]] = {}

    @cached_property
    def _up(self) -> Mapping[str, frozenset[str]]:
        callers: dict[str, set[str]] = {name: set() for name in self.services}
        for name, dependencies in self._down.items():
            for dependency in dependencies:
                callers[dependency].add(name)
        return {name: frozenset(found) for name, found in callers.items()}

    def with_edges(self, more: Iterable[tuple[str, str]]) -> Topology:
        """This graph and the (caller, callee) pairs."""
        edges: dict[str, set[str]] = {name: set(found) for name, found in self._down.items()}
        for caller, callee in more:
            if caller in self.services:
                edges[caller].add(callee)
        return Topology(edges, self.services)

    def direct_dependencies(self, service: str) -> frozenset[str]:
        """What a service calls itself."""
        return self._down.get(service, frozenset())

    def direct_dependants(self, service: str) -> frozenset[str]:
        """Who calls a service itself."""
        return self._up.get(service, frozenset())

    def dependencies(self, service: str) -> Mapping[str, int]:
        """All that a service depends on, with the number of hops; without itself, nearest first."""
        return self._reachable("down", service, self._down)

    def dependants(self, service: str) -> Mapping[str, int]:
        """All that depends on a service, with the number of hops; without itself, nearest first."""
        return self._reachable("up", service, self._up)

    def _known(self, names: Iterable[str]) -> frozenset[str]:
        return self.services.intersection(names)

    def _reachable(self, way: str, start: str, edges: Mapping[str, frozenset[str]]) -> Mapping[str, int]:
        """Breadth-first search; asked again for every alert of a storm, so the answer is kept."""
        if (way, start) not in self._found:
            hops = {start: 0}
            waiting = deque([start])
            while waiting:
                current = waiting.popleft()
                for name in sorted(edges.get(current, ())):
                    if name not in hops:
                        hops[name] = hops[current] + 1
                        waiting.append(name)
            del hops[start]
            self._found[way, start] = hops
        return self._found[way, start]
