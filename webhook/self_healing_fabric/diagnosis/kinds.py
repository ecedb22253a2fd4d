"""What a series measures, read from its name: family, bad direction, how much a shift of it may count.

The shipped rules record a handful of signals, and people record more of their own under names that nobody can
list in advance (`service:shf_custom:pool_wait_ms`). A name is split into words and the first family with one
of them wins; a name that says nothing is still looked at, in both directions and for less. Words, not
substrings: `write_off_total` is not an `off`, and `db_query_count_per_request` is no request rate.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache


class Family(StrEnum):
    """What kind of thing a series measures, in the order in which a cause would show before its effects."""

    MEMORY = "memory"
    DISK = "disk"
    RESTARTS = "restarts"
    CPU = "cpu"
    CLIENT_GAP = "client_gap"  # time that callers wait and the service does not spend
    CLIENT_LOSS = "client_loss"  # calls of callers that get no answer from it at all, not even an error
    SATURATION = "saturation"
    HEALTH = "health"
    ERRORS = "errors"
    LATENCY = "latency"
    CLIENT_LATENCY = "client_latency"  # what a service waits for its callees, or callers for it
    DRIFT = "drift"
    NETWORK = "network"
    LOAD = "load"
    OTHER = "other"


SYMPTOMS = frozenset(
    {Family.LATENCY, Family.CLIENT_LATENCY, Family.CLIENT_LOSS, Family.ERRORS, Family.HEALTH}
)
RESOURCES = frozenset({Family.MEMORY, Family.DISK, Family.CPU, Family.RESTARTS})


@dataclass(frozen=True)
class Kind:
    """How to read one series.

    Attributes:
        name: as recorded, without the prefix of the rules.
        direction: 1 when a rise is bad, -1 when a fall is, 0 when both are.
        weight: how much a shift counts beside that of other families.
        floor: the least spread that is believed, relative to the median.
        share: whether it is a share of something, in 0..1 or in percent.
        counted: whether a value is a count within one step rather than a rate.
        statistic: `p95`, `mean` and so on; empty where there is only one.
    """

    name: str
    family: Family
    direction: int
    weight: float
    floor: float
    share: bool
    counted: bool
    statistic: str


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_WORDS: tuple[tuple[Family, frozenset[str]], ...] = tuple(
    (family, _words(words))
    for family, words in (
        (Family.DRIFT, "drift digests divergence skew"),
        (Family.HEALTH, "heartbeat answered ready healthy alive"),
        (
            Family.ERRORS,
            "availability success successful error errors 5xx 4xx fail failed failing failure failures "
            "exception exceptions abort aborted aborts reject rejected rejects timeout timeouts denied deser "
            "invalid corrupt corrupted drop dropped drops lost loss retries retry conflict conflicts panic "
            "panics unavailable mismatch mismatches throttle throttled throttles violations refused nxdomain "
            "unauthorized",
        ),
        (Family.RESTARTS, "restart restarts crash crashes crashloop oom oomkilled evictions evicted"),
        (
            Family.SATURATION,
            "queue queued lag backlog pending pool pools connections conns inflight threads saturation "
            "waiters fd fds sockets depth capacity locks pause waiting",
        ),
        (Family.LATENCY, "latency latencies duration lat lat50 lat90 elapsed rtt response wait"),
        (Family.MEMORY, "mem memory rss heap"),
        (Family.CPU, "cpu"),
        (Family.DISK, "disk volume inode inodes fs filesystem storage iowait diskio"),
        (Family.NETWORK, "net network rx tx receive transmit packets socket bandwidth"),
        (
            Family.LOAD,
            "requests workload qps rps load throughput calls messages queries ops hits rate traffic commands",
        ),
    )
)
_LOWER_IS_WORSE = _words("availability success successful heartbeat answered ready healthy alive hit up")
_SHARE = _words("ratio percent percentage pct utilization utilisation share availability success")
_COUNTED = _words("sum count total increase")
_STATISTIC = re.compile(r"p\d{2,3}|mean|average|avg|median|max|lat\d{2}")
_WEIGHT = {
    Family.CLIENT_LATENCY: 0.8,
    Family.SATURATION: 0.8,
    Family.LOAD: 0.4,
    Family.NETWORK: 0.4,
    Family.OTHER: 0.6,
}
_FLOOR = {Family.MEMORY: 0.02, Family.DISK: 0.03}
_BOTH_WAYS = frozenset({Family.LOAD, Family.NETWORK, Family.OTHER})
_PER = re.compile(r"per_(request|call|second|sec|s|minute|min)(_|$)")


@lru_cache(maxsize=4096)
def kind_of(name: str) -> Kind:
    """Read a series' name; the same name always gives the same kind."""
    words = re.findall(r"[a-z0-9]+", _PER.sub("", re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()))
    family = _family(words)
    statistic = next((word for word in words if _STATISTIC.fullmatch(word)), "")
    direction = -1 if _LOWER_IS_WORSE.intersection(words) else 0 if family in _BOTH_WAYS else 1
    weight = (
        0.3
        if "syscall" in words
        else 0.9
        if "edge" in words and family is Family.CLIENT_LATENCY
        else _WEIGHT.get(family, 1.0)
    )
    return Kind(
        name=name,
        family=family,
        direction=direction,
        weight=weight,
        floor=_FLOOR.get(family, 0.05),
        share=bool(_SHARE.intersection(words)),
        counted=bool(_COUNTED.intersection(words)),
        statistic=statistic,
    )


def _family(words: list[str]) -> Family:
    if words[:1] == ["up"]:
        return Family.HEALTH
    if "gap" in words and "latency" in words:
        return Family.CLIENT_GAP
    if "hit" in words:  # of a cache: neither traffic nor failure
        return Family.OTHER
    for family, known in _WORDS:
        if not known.intersection(words):
            continue
        if family is Family.ERRORS and "cpu" in words:
            return Family.CPU  # throttled CPU is a lack of CPU, and no failed request
        if family is Family.ERRORS and {"edge", "client"}.issubset(words):
            return Family.CLIENT_LOSS
        if family is Family.LATENCY and ("client" in words or "upstream" in words):
            return Family.CLIENT_LATENCY
        return family
    if any(word.startswith("p9") for word in words) and {"ms", "seconds"}.intersection(words):
        return Family.LATENCY
    return Family.OTHER
