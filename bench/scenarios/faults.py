"""The scenarios: what is broken, where, and what a person who knows it would call it.

The classes follow the fabric's own definitions (what share of the requests fails, whether it is over), the
patterns follow what was done to the service. Both labels belong to the fault, not to what can be seen of it:
where the evidence cannot carry the label, the fabric is wrong or abstains, and that is the figure wanted.

Each fault is a context: entered it breaks, left it is undone. What a service needs to be well again
(its files, a new process) is part of the undoing.
"""

from __future__ import annotations

import os
import random
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

from bench.scenarios.shop import ENTRY, ShopStack, lane_of, name_of, services_of
from shf_demo import shop_service
from shf_demo.network import Edge
from shf_demo.traffic import Traffic

NONE = "none"  # the label of a window in which nothing is wrong
INNER = ("cart", "stock", "prices")
NETWORK_DELAY = 0.3  # seconds, each way
NETWORK_LOSS = 0.35  # of the messages
BLIP = 6.0  # seconds
DAMAGED = 0.4  # of the records
CROWD_RATE, CROWD = 60.0, 24  # requests/s that so many more users want; a front serves 33
SWELL_RATE, SWELL = 3.0, 3  # of a busier minute in which nothing is wrong
SWELL_SECONDS = 12.0  # between more and usual traffic

Fault = Callable[[ShopStack, str, random.Random], AbstractContextManager[None]]


@dataclass(frozen=True)
class Scenario:
    """One kind of fault.

    Attributes:
        roles: of the services that it may hit.
        failure_class, pattern: the labels.
        fault: breaks a service for as long as it is entered.
        alone: whether nothing else may run beside it.
        lasts: seconds after which it ends by itself; None: until the diagnosis has been read.
    """

    name: str
    roles: tuple[str, ...]
    failure_class: str
    pattern: str
    fault: Fault
    alone: bool = False
    lasts: float | None = None

    @property
    def is_quiet(self) -> bool:
        """Whether nothing is wrong and nothing may be diagnosed."""
        return self.pattern == NONE

    def labelled_services(self, service: str, lanes: tuple[str, ...]) -> list[str]:
        """Where the cause lies: the service; every silent one when a host falls silent; nowhere."""
        if self.is_quiet:
            return []
        return _on_the_host(service, lanes) if self.alone and self.failure_class == "critical" else [service]


@contextmanager
def _slow_network(shop: ShopStack, service: str, _: random.Random) -> Iterator[None]:
    with _mended_afterwards(shop.network.into(service)) as edges:
        for edge in edges:
            edge.delay = NETWORK_DELAY
        yield


@contextmanager
def _lossy_network(shop: ShopStack, service: str, _: random.Random) -> Iterator[None]:
    with _mended_afterwards(shop.network.into(service)) as edges:
        for edge in edges:
            edge.loss = NETWORK_LOSS
        yield


@contextmanager
def _cut_network(shop: ShopStack, service: str, _: random.Random) -> Iterator[None]:
    with _mended_afterwards(shop.network.into(service)) as edges:
        for edge in edges:
            edge.cut = True
        yield


@contextmanager
def _mended_afterwards(edges: list[Edge]) -> Iterator[list[Edge]]:
    try:
        yield edges
    finally:
        for edge in edges:
            edge.mend()


def _of_the_process(kind: str) -> Fault:
    """A fault that a new process does not have."""

    @contextmanager
    def fault(shop: ShopStack, service: str, _: random.Random) -> Iterator[None]:
        shop.inject(service, kind)
        try:
            yield
        finally:
            shop.put_back(service)

    return fault


@contextmanager
def _crowd(shop: ShopStack, service: str, _: random.Random) -> Iterator[None]:
    with Traffic([shop.port(service)], CROWD_RATE, CROWD):
        yield


@contextmanager
def _wrong_settings(shop: ShopStack, service: str, _: random.Random) -> Iterator[None]:
    shop_service.write_settings(shop.directory(service), {**shop_service.WANTED, "currency": "EURO"})
    shop.deploy(service)
    try:
        yield
    finally:
        shop_service.write_settings(shop.directory(service), shop_service.WANTED)
        shop.put_back(service)


@contextmanager
def _drifted_settings(shop: ShopStack, service: str, _: random.Random) -> Iterator[None]:
    shop.change_settings(service, {"currency": "EURO"})
    try:
        yield
    finally:
        shop.put_back(service)


@contextmanager
def _damaged_records(shop: ShopStack, service: str, dice: random.Random) -> Iterator[None]:
    shop_service.damage_records(shop.directory(service), DAMAGED, dice)
    try:
        yield
    finally:
        shop_service.write_records(shop.directory(service))


@contextmanager
def _faulty_release(shop: ShopStack, service: str, _: random.Random) -> Iterator[None]:
    shop_service.write_release(shop.directory(service), shop_service.FAULTY_RELEASE)
    shop.deploy(service)
    try:
        yield
    finally:
        shop_service.write_release(shop.directory(service), shop_service.GOOD_RELEASE)
        shop.put_back(service)


@contextmanager
def _silent_host(shop: ShopStack, service: str, _: random.Random) -> Iterator[None]:
    """The services of all lanes but one stand still, as if they shared a host that is gone."""
    processes = [shop.supervisor.state(name).pid for name in _on_the_host(service, shop.lanes)]
    try:
        for process in processes:
            os.kill(process, signal.SIGSTOP)
        yield
    finally:
        for process in processes:
            os.kill(process, signal.SIGCONT)


def _on_the_host(service: str, lanes: tuple[str, ...]) -> list[str]:
    here = lane_of(service)
    spared = next((lane for lane in lanes if lane != here), "")
    return [name for lane in lanes if lane != spared for name in services_of(lane)]


@contextmanager
def _nothing(shop: ShopStack, service: str, _: random.Random) -> Iterator[None]:
    """Traffic swells and ebbs, and that is all."""
    over = threading.Event()

    def swell() -> None:
        while not over.is_set():
            with Traffic([shop.port(name_of(ENTRY, lane_of(service)))], SWELL_RATE, SWELL):
                over.wait(SWELL_SECONDS)
            over.wait(SWELL_SECONDS)

    swelling = threading.Thread(target=swell, name="swell", daemon=True)
    swelling.start()
    try:
        yield
    finally:
        over.set()
        swelling.join()


SCENARIOS = (
    Scenario("network-delay", INNER, "degradation", "network_issue", _slow_network),
    Scenario("network-loss", INNER, "degradation", "network_issue", _lossy_network),
    Scenario("network-blip", INNER, "transient", "network_issue", _cut_network, lasts=BLIP),
    Scenario("memory-limit", INNER, "degradation", "resource_exhaustion", _of_the_process("memory")),
    Scenario("overload", (ENTRY,), "degradation", "service_overload", _crowd),
    Scenario("bad-configuration", INNER, "service_failure", "configuration_error", _wrong_settings),
    Scenario("drift", INNER, "cluster_drift", "configuration_error", _drifted_settings),
    Scenario("corrupt-state", INNER, "data_corruption", "data_corruption", _damaged_records),
    Scenario(
        "dependency-down",
        ("stock", "prices"),
        "service_failure",
        "dependency_failure",
        _of_the_process("exit"),
    ),
    Scenario("faulty-release", INNER, "degradation", "code_bug", _faulty_release),
    Scenario("fault-free", INNER, NONE, NONE, _nothing),
    Scenario("cpu-burn", INNER, "degradation", "resource_exhaustion", _of_the_process("cpu"), alone=True),
    Scenario("silent-host", INNER, "critical", "network_issue", _silent_host, alone=True),
)
