"""Observations of the service `cart`, which depends on `db` and which `web` calls, from values by query."""

from collections.abc import Callable, Mapping

import pytest

from self_healing_fabric.diagnosis.evidence import Observations
from self_healing_fabric.settings import Thresholds
from shf_queries import catalogue

See = Callable[..., Observations]


@pytest.fixture
def see() -> See:
    """Build observations: signals of `cart` by series name, others by their whole query."""

    def see(
        signals: Mapping[str, float] | None = None,
        *,
        db: Mapping[str, float] | None = None,
        web: Mapping[str, float] | None = None,
        silent: float | None = None,
        known: float | None = None,
        queries: Mapping[str, float] | None = None,
    ) -> Observations:
        values = dict(queries or {})
        for service, recorded in (("cart", signals), ("db", db), ("web", web)):
            values |= {
                catalogue.series_of(f"service:shf_{series}", service): value
                for series, value in (recorded or {}).items()
            }
        for query, number in ((catalogue.silent_services(), silent), (catalogue.known_services(), known)):
            if number is not None:
                values[query] = number
        return Observations(
            service="cart",
            depends_on=("db",),
            values=values,
            at=1000.0,
            thresholds=Thresholds(),
            called_by=("web",),
        )

    return see
