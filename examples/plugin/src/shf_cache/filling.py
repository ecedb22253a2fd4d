"""Evidence source `cache_fill`: how full the cache is, as a fact with the call that shows it."""

from __future__ import annotations

import httpx
from pydantic import BaseModel, ConfigDict, Field

from self_healing_fabric.diagnosis import Pattern
from self_healing_fabric.diagnosis.sources import Fact, Report, SourceUnusable
from self_healing_fabric.incidents.evidence import Evidence
from self_healing_fabric.settings import HttpUrl


class Options(BaseModel):
    """The section `services.NAME.evidence_sources.cache_fill`."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    url: HttpUrl = Field(description="base URL of the cache")
    full: float = Field(0.95, gt=0, le=1, description="from this share on it counts as full")


class CacheFill:
    """Looks at the cache, and changes nothing."""

    Options = Options
    name = "cache_fill"

    def __init__(self, service: str, options: Options) -> None:
        self._service, self._options = service, options

    def look(self, at: float, within: float) -> Report:
        """One fact; a full cache speaks for resource exhaustion."""
        url = self._options.url
        try:
            answer = httpx.get(url, timeout=within, trust_env=False)
            fill = float(answer.raise_for_status().json()["fill"])
        except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
            raise SourceUnusable(f"{url} cannot be asked: {error}") from error
        seen = Evidence(f"The cache of {self._service} is {fill:.0%} full.", f"curl -s {url}", fill, at)
        full = fill >= self._options.full
        return Report((Fact(seen, {Pattern.RESOURCE_EXHAUSTION: 0.7} if full else {}),))
