"""Who calls whom, and what follows from it: a caller suffers from its callees, never the other way round."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property


class CallGraph:
    """Directed calls between services, from caller to callee. Unknown services call nobody."""

    def __init__(self, calls: Iterable[tuple[str, str]] = ()) -> None:
        self.calls = tuple(sorted({(caller, callee) for caller, callee in calls if caller != callee}))

    @classmethod
    def of_dependencies(cls, depends_on: Mapping[str, Iterable[str]]) -> CallGraph:
        """From the configuration: each service with those that it depends on."""
        return cls((caller, callee) for caller, callees in depends_on.items() for callee in callees)

    @cached_property
    def _callees(self) -> dict[str, tuple[str, ...]]:
        found: dict[str, tuple[str, ...]] = {}
        for caller, callee in self.calls:
            found[caller] = (*found.get(caller, ()), callee)
        return found

    @cached_property
    def services(self) -> frozenset[str]:
        """All services that call or are called."""
        return frozenset(service for call in self.calls for service in call)

    def callees(self, service: str, measured: Iterable[str] | None = None) -> tuple[str, ...]:
        """Whom a service calls; with `measured`, callees without series are replaced by theirs."""
        if measured is None:
            return self._callees.get(service, ())
        known, found, seen = frozenset(measured), [], {service}
        waiting = list(self._callees.get(service, ()))
        while waiting:
            callee = waiting.pop(0)
            if callee in seen:
                continue
            seen.add(callee)
            if callee in known:
                found.append(callee)
            else:
                waiting.extend(self._callees.get(callee, ()))
        return tuple(found)

    def reachable(self, service: str) -> frozenset[str]:
        """The service and everything that its calls can reach: only there can its trouble come from."""
        seen, waiting = {service}, [service]
        while waiting:
            for callee in self._callees.get(waiting.pop(), ()):
                if callee not in seen:
                    seen.add(callee)
                    waiting.append(callee)
        return frozenset(seen)

    def neighbourhood(self, service: str, limit: int) -> tuple[str, ...]:
        """The service, whatever its calls can reach, and who calls it; the nearest `limit` of them,
        sorted."""
        callers = sorted({caller for caller, callee in self.calls if callee == service})
        found = dict.fromkeys([service])
        ring = [service]
        while ring and len(found) < limit:
            ring = [callee for one in ring for callee in self.callees(one) if callee not in found]
            found.update(dict.fromkeys(ring))
        found.update(dict.fromkeys(callers))
        return tuple(sorted(list(found)[:limit]))
