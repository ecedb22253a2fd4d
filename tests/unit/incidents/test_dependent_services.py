"""Correlation of services that depend on each other: one problem, one suspected cause, whatever the order."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scratch_store import scratch_store
from self_healing_fabric.incidents import correlation
from self_healing_fabric.incidents.ingestion import store_alerts
from self_healing_fabric.incidents.models import Alert
from self_healing_fabric.incidents.notifications import work_in
from self_healing_fabric.incidents.topology import Topology
from self_healing_fabric.store import Store, statements

STARTED = "2026-11-22T07:00:00.000Z"
WINDOW = 300.0
SHOP = {"web": ["cart"], "cart": ["db"], "search": ["db"], "db": [], "mail": []}
CYCLE = {"a": ["b"], "b": ["c"], "c": ["a"], "d": ["a"]}


def alert(service: str, number: int = 1, severity: str = "critical", **annotations: str) -> Alert:
    """The n-th alert of a service."""
    labels = {"alertname": f"Shf{number}", "service": service, "severity": severity, "signal": "heartbeat"}
    return Alert(f"{service}/{number}", STARTED, "firing", labels, annotations)


class Fleet:
    """Services with their dependencies, and what the incidents of their alerts are."""

    def __init__(self, store: Store, edges: Mapping[str, Iterable[str]], window: float = WINDOW) -> None:
        self.store = store
        self.topology = Topology(edges, edges)
        self.window = window

    def take(self, *alerts: Alert, at: float = 100.0) -> correlation.Opened:
        """Take alerts in at one moment, in one transaction."""

        def write(connection: Any) -> correlation.Opened:
            for each in alerts:  # one by one, so that their order is that of the arguments
                store_alerts(connection, [each], at)
            return correlation.open_incidents(connection, self.topology, self.window, at)

        return self.store.write(write)

    def listed(self, *, merged: bool = False) -> list[Any]:
        """The incidents as people see them listed, oldest first."""
        rows = self.store.read(lambda c: statements.list_incidents(c, merged=merged, limit=500))
        return list(reversed(rows))

    def causes(self) -> list[str]:
        """The suspected causes of the listed incidents that are open."""
        return sorted(row.service for row in self.listed() if row.closed_at is None)

    def members(self, incident: Any) -> dict[str, int]:
        """How many alerts of which service belong to an incident."""
        found: dict[str, int] = {}
        for row in self.store.read(lambda c: statements.alerts_of(c, incident.id)):
            found[row.service] = found.get(row.service, 0) + 1
        return found

    def story(self, incident: Any) -> list[str]:
        """The messages of an incident's timeline."""
        return [row.message for row in self.store.read(lambda c: statements.timeline_of(c, incident.id))]

    def change(self, incident: Any, **columns: Any) -> None:
        """Set columns of an incident."""
        self.store.write(lambda c: statements.annotate(c, incident.id, columns))

    def act(self, incident: Any, status: str = "started") -> None:
        """Write an action of the incident down."""
        values = {
            "id": f"{incident.id}/restart-1",
            "incident_id": incident.id,
            "strategy": "restart",
            "platform": "http",
            "target": f"http:{incident.service}",
            "disruptive": True,
            "attempt": 1,
            "status": status,
            "before": {},
            "intended_at": 100.0,
        }
        self.store.write(lambda connection: statements.insert_action(connection, values))


@pytest.fixture
def shop(store: Store) -> Fleet:
    """`web` needs `cart`, `cart` and `search` need `db`; `mail` has nothing to do with them."""
    return Fleet(store, SHOP)


@pytest.mark.parametrize("service", ["cart", "web"])
def test_a_symptom_joins_the_incident_of_its_cause(shop: Fleet, service: str) -> None:
    """Directly or through others; the timeline says why, and the cause stays the suspect."""
    shop.take(alert("db"))
    assert shop.take(alert(service), at=160.0).services == ()
    (incident,) = shop.listed()
    assert (incident.service, incident.subject) == ("db", "service/db")
    assert shop.members(incident) == {"db": 1, service: 1}
    expected = f"Shf1 joined the incident: {service} depends on db and is taken for a symptom."
    assert shop.story(incident)[-1] == expected


def test_what_does_not_depend_on_it_does_not_join(shop: Fleet) -> None:
    """A service beside it, and one that the failing service itself depends on another way round."""
    shop.take(alert("cart"))
    shop.take(alert("mail"), alert("search"))
    assert shop.causes() == ["cart", "mail", "search"]


def test_the_suspicion_moves_to_the_cause(shop: Fleet) -> None:
    """The cause alerts later: the same incident begins again with it, and what was planned is void."""
    shop.take(alert("web"))
    (before,) = shop.listed()
    planned = {"state": "awaiting_approval", "plan": ["restart"], "approved_by": "ada", "due_at": None}
    shop.change(before, **planned, lease_owner="w", lease_until=1000.0, waiting_for="a person's approval")
    opened = shop.take(alert("db", summary="db is silent"), at=150.0)
    assert (opened.services, opened.merged) == ((), ())
    (after,) = shop.listed()
    assert (after.id, after.service, after.subject) == (before.id, "db", "service/db")
    assert (after.state, after.plan, after.approved_by, after.waiting_for) == ("diagnosing", [], None, None)
    assert (after.due_at, after.lease_until, after.title) == (150.0, None, "db is silent")
    assert after.epoch > before.epoch
    assert shop.members(after) == {"web": 1, "db": 1}
    told = "Shf1 joined the incident: web depends on db, which is now suspected."
    assert shop.story(after)[-1] == told


def test_the_suspicion_moves_on_to_the_cause_of_the_cause(shop: Fleet) -> None:
    """From symptom to symptom down to the root, one incident all the way."""
    for number, service in enumerate(("web", "cart", "db")):
        shop.take(alert(service), at=100.0 + number)
        assert shop.causes() == [service]
    (incident,) = shop.listed()
    assert shop.members(incident) == {"web": 1, "cart": 1, "db": 1}


def test_a_later_alert_of_a_symptom_stays_with_the_cause(shop: Fleet) -> None:
    """Also long after the window: it is a member already."""
    shop.take(alert("db"), alert("cart"))
    shop.take(alert("cart", 2), at=100.0 + 10 * WINDOW)
    (incident,) = shop.listed()
    assert shop.members(incident) == {"db": 1, "cart": 2}


def test_incidents_of_symptoms_are_merged_into_that_of_the_cause(shop: Fleet) -> None:
    """Two services fail for themselves until what both depend on alerts: the older incident goes on."""
    shop.take(alert("search"))
    shop.take(alert("cart"), at=110.0)
    search, cart = shop.listed()
    shop.change(cart, state="recovering", level=2, level_due_at=500.0, waiting_for="a server")
    opened = shop.take(alert("db"), at=120.0)
    assert (opened.services, opened.merged) == ((), ("cart",))
    (listed,) = shop.listed()
    assert (listed.id, listed.service) == (search.id, "db")
    assert shop.members(listed) == {"search": 1, "cart": 1, "db": 1}
    (merged,) = [row for row in shop.listed(merged=True) if row.id == cart.id]
    assert (merged.state, merged.outcome, merged.merged_into) == ("closed", "merged", search.id)
    assert (merged.closed_at, merged.due_at, merged.level_due_at, merged.waiting_for) == (120.0, *[None] * 3)
    assert merged.epoch > cart.epoch
    into = f"Merged into {search.id}: cart depends on db, which fails too and is suspected."
    took = f"Took in {cart.id}: cart depends on db and is taken for a symptom."
    assert shop.story(merged)[-1] == into
    assert took in shop.story(listed)


def test_merged_incidents_are_listed_only_on_demand(shop: Fleet) -> None:
    """People see one problem; what became of the other id can still be looked up."""
    shop.take(alert("search"))
    shop.take(alert("cart"))
    shop.take(alert("db"))
    assert len(shop.listed()) == 1
    assert len(shop.listed(merged=True)) == 2
    assert shop.store.read(lambda c: statements.list_incidents(c, service="cart")) == []


def test_services_that_depend_on_each_other_in_a_circle_are_one_incident(store: Store) -> None:
    """The first to alert is as good a suspect as any; none of the circle moves it away again."""
    fleet = Fleet(store, CYCLE)
    for number, service in enumerate(("b", "d", "a", "c", "a")):
        fleet.take(alert(service, number), at=100.0 + number)
    (incident,) = fleet.listed(merged=True)
    assert incident.service == "b"
    assert fleet.members(incident) == {"a": 2, "b": 1, "c": 1, "d": 1}


@pytest.mark.parametrize(("late", "causes"), [(WINDOW, ["db"]), (WINDOW + 0.1, ["cart", "db"])])
@pytest.mark.parametrize("first", ["cart", "db"])
def test_alerts_that_are_far_apart_are_two_problems(
    shop: Fleet, first: str, late: float, causes: list[str]
) -> None:
    """The window counts from the incident's newest alert, whichever of the two came first."""
    shop.take(alert(first), at=0.0)
    shop.take(alert(first, 2), at=1000.0)
    shop.take(alert("db" if first == "cart" else "cart"), at=1000.0 + late)
    assert shop.causes() == causes


def test_a_symptom_keeps_the_window_open(shop: Fleet) -> None:
    """A failure that spreads slowly is still one: its newest alert counts, not its first."""
    shop.take(alert("db"), at=0.0)
    shop.take(alert("cart"), at=200.0)
    shop.take(alert("search"), at=400.0)
    assert shop.causes() == ["db"]


def test_a_window_of_zero_joins_only_what_comes_together(store: Store) -> None:
    """Correlation over dependencies can be turned down."""
    fleet = Fleet(store, SHOP, window=0.0)
    fleet.take(alert("cart"), alert("db"), at=100.0)
    fleet.take(alert("search"), at=100.1)
    assert fleet.causes() == ["db", "search"]


def test_a_resolved_incident_is_not_joined_by_a_symptom(shop: Fleet) -> None:
    """The cause was proved healthy: who still fails has another problem, member or not."""
    shop.take(alert("db"), alert("cart"))
    shop.change(shop.listed()[0], state="resolved", resolved_at=110.0)
    shop.take(alert("cart", 2), alert("search"), at=120.0)
    assert shop.causes() == ["cart", "db", "search"]
    assert next(row.state for row in shop.listed() if row.service == "db") == "resolved"


def test_a_resolved_symptom_is_not_moved(shop: Fleet) -> None:
    """Its incident is over; the cause gets one of its own."""
    shop.take(alert("cart"))
    shop.change(shop.listed()[0], state="resolved", resolved_at=110.0)
    assert shop.take(alert("db"), at=120.0).services == ("db",)


@pytest.mark.parametrize("status", ["intended", "started"])
def test_an_unfinished_action_is_not_overtaken(shop: Fleet, status: str) -> None:
    """The step that began it must be able to write its end: its incident is neither moved nor merged."""
    shop.take(alert("cart"))
    shop.take(alert("search"))
    cart = next(row for row in shop.listed() if row.service == "cart")
    shop.change(cart, state="recovering")
    shop.act(cart, status)
    assert shop.take(alert("db"), at=120.0).merged == ()
    assert shop.causes() == ["cart", "db"]
    after = next(row for row in shop.listed() if row.id == cart.id)
    assert (after.epoch, after.state) == (cart.epoch, "recovering")
    assert shop.members(after) == {"cart": 1}


def test_a_finished_action_holds_nothing_up(shop: Fleet) -> None:
    """What was tried is over and written down."""
    shop.take(alert("cart"))
    shop.act(shop.listed()[0], "failed")
    shop.take(alert("db"), at=120.0)
    assert shop.causes() == ["db"]


def test_an_incident_that_is_being_verified_is_not_moved(shop: Fleet) -> None:
    """Its verdict falls first; whether it belongs to the cause is asked again then."""
    shop.take(alert("cart"))
    shop.change(shop.listed()[0], state="verifying")
    shop.take(alert("db"), at=120.0)
    assert shop.causes() == ["cart", "db"]


@pytest.mark.parametrize("order", [("db", "cart"), ("cart", "db")])
def test_the_worst_severity_of_all_speaks_for_the_incident(shop: Fleet, order: Sequence[str]) -> None:
    """Of the symptom or of the cause, before a move or after it, and it never falls."""
    for number, service in enumerate(order):
        shop.take(alert(service, severity=("critical", "warning")[number]), at=100.0 + number)
    assert [row.severity for row in shop.listed()] == ["critical"]


def test_a_merged_incident_leaves_its_severity(shop: Fleet) -> None:
    """The younger one was the worse."""
    shop.take(alert("search", severity="info"))
    shop.take(alert("cart", severity="critical"), at=110.0)
    shop.take(alert("db", severity="warning"), at=120.0)
    assert [row.severity for row in shop.listed()] == ["critical"]


def test_symptoms_that_stand_before_their_cause_in_a_batch_find_it(shop: Fleet) -> None:
    """Causes are placed first: nothing is opened that would have to be merged at once."""
    opened = shop.take(*(alert(service) for service in ("web", "search", "cart", "db", "mail")))
    assert (sorted(map(str, opened.services)), opened.merged) == (["db", "mail"], ())
    assert len(shop.listed(merged=True)) == 2


def test_an_incident_that_was_split_off_is_never_merged_again(shop: Fleet) -> None:
    """Neither when its cause alerts, nor when it is asked before an action."""
    shop.take(alert("db"), alert("cart"), alert("search"))
    (incident,) = shop.listed()
    split_id, _ = shop.store.write(lambda c: correlation.split(c, incident, "cart", "ada said so", 110.0))
    shop.change(incident, state="closed", closed_at=111.0)
    shop.take(alert("cart", 2), alert("db", 2), at=120.0)
    cart = next(row for row in shop.listed() if row.id == split_id)
    assert (cart.service, cart.split_from, cart.closed_at) == ("cart", incident.id, None)
    assert shop.members(cart) == {"cart": 2}
    topology = shop.topology
    asked = shop.store.read(lambda c: correlation.cause_among(c, cart, topology, WINDOW, 121.0))
    assert asked is None
    assert shop.causes() == ["cart", "db"]


def test_a_split_takes_the_alerts_of_one_service_and_tells_both(shop: Fleet) -> None:
    """The new incident is as grave as its alerts, and begins from the start."""
    shop.take(alert("db"), alert("cart", 1, "info"), alert("cart", 2, "warning"), alert("web"))
    (incident,) = shop.listed()
    split_id, _ = shop.store.write(lambda c: correlation.split(c, incident, "cart", "ada said so", 110.0))
    split = next(row for row in shop.listed() if row.id == split_id)
    assert (split.service, split.state, split.severity) == ("cart", "detected", "warning")
    assert split.due_at == 110.0
    assert shop.members(split) == {"cart": 2}
    assert shop.members(incident) == {"db": 1, "web": 1}
    assert shop.story(incident)[-1] == f"cart was split off into {split_id}: ada said so"
    assert shop.story(split) == [f"Split off from {incident.id}: ada said so"]


def test_a_split_joins_the_incident_that_the_service_has_already(shop: Fleet) -> None:
    """A service never has two open incidents; the one it has is not merged again from then on."""
    shop.take(alert("db"), alert("cart"))
    (incident,) = shop.listed()
    shop.change(incident, state="resolved", resolved_at=105.0)
    shop.take(alert("cart", 2), at=106.0)
    own = next(row for row in shop.listed() if row.service == "cart")
    joined = shop.store.write(lambda c: correlation.split(c, incident, "cart", "so", 110.0))
    assert joined == (own.id, False)
    shop.take()
    assert shop.members(own) == {"cart": 2}
    assert next(row.split_from for row in shop.listed() if row.id == own.id) == incident.id


def test_the_nearest_cause_is_asked_for_first(shop: Fleet) -> None:
    """`web` fails for `cart` rather than for `db`, when both have incidents of their own."""
    shop.take(alert("db"), at=0.0)
    shop.take(alert("cart"), at=WINDOW + 1)  # apart
    shop.take(alert("db", 2), at=WINDOW + 2)
    shop.take(alert("web"), at=WINDOW + 3)
    cart = next(row for row in shop.listed() if row.service == "cart")
    assert shop.members(cart) == {"cart": 1, "web": 1}


def in_a_circle(store: Store) -> tuple[Fleet, Any, Any]:
    """Two services that turn out to depend on each other when both have incidents already; older first."""
    apart = Fleet(store, {"a": [], "b": []})
    apart.take(alert("a"), at=100.0)
    apart.take(alert("b"), at=110.0)
    first, second = apart.listed()
    return Fleet(store, {"a": ["b"], "b": ["a"]}), first, second


def test_of_two_incidents_in_a_circle_the_older_one_stays(store: Store) -> None:
    """Otherwise each would be merged into the other, and both be gone."""
    fleet, first, second = in_a_circle(store)

    def cause_of(incident: Any) -> Any:
        return store.read(lambda c: correlation.cause_among(c, incident, fleet.topology, WINDOW, 120.0))

    assert cause_of(first) is None
    assert cause_of(second).id == first.id


@pytest.mark.parametrize(
    "change", [{"state": "resolved", "resolved_at": 1.0}, {"state": "closed", "closed_at": 1.0}]
)
def test_a_cause_that_is_over_is_none(store: Store, change: dict[str, Any]) -> None:
    """Before an action only an incident that is open, and not healed, counts as the cause."""
    fleet, first, second = in_a_circle(store)
    fleet.change(first, **change)
    asked = store.read(lambda c: correlation.cause_among(c, second, fleet.topology, WINDOW, 120.0))
    assert asked is None


def test_a_cause_whose_alerts_are_old_is_none(store: Store) -> None:
    """The window holds before an action too."""
    fleet, _, second = in_a_circle(store)

    def asked(now: float) -> Any:
        return store.read(lambda c: correlation.cause_among(c, second, fleet.topology, WINDOW, now))

    assert asked(100.0 + WINDOW) is not None
    assert asked(100.1 + WINDOW) is None


def transitive(services: int) -> dict[str, list[str]]:
    """A fleet of which all but `root` depend on it: most only through others, some on several ways."""
    names = [f"s{number}" for number in range(1, services)]
    edges = {name: [names[(number - 1) // 3]] for number, name in enumerate(names) if number}
    edges[names[0]] = ["root"]
    for number, name in enumerate(names[10:], start=10):
        edges[name] = [*edges[name], names[number - 7]]
    return {"root": [], **edges}


def notification(alerts: Iterable[Alert]) -> bytes:
    """The body with which Alertmanager would send them."""
    listed = [
        {
            "status": each.status,
            "labels": each.labels,
            "annotations": each.annotations,
            "startsAt": each.starts_at,
            "fingerprint": each.fingerprint,
        }
        for each in alerts
    ]
    return json.dumps({"version": "4", "alerts": listed}).encode()


@pytest.mark.parametrize(("seed", "largest"), [(1, 1), (2, 20), (3, 20), (4, 500)])
def test_a_storm_of_one_root_failure_is_one_problem(store: Store, seed: int, largest: int) -> None:
    """500 alerts of 100 services in random order, in requests of up to `largest`: not more than 3 incidents.

    With one alert a request every alert is worked in by itself, in a transaction of its own.
    """
    fleet = Fleet(store, transitive(100))
    dice = random.Random(seed)  # noqa: S311 - a shuffle
    alerts = [alert(service, number) for service in fleet.topology.services for number in range(5)]
    alerts.sort(key=lambda each: each.fingerprint)
    dice.shuffle(alerts)
    now = 100.0

    def take_in(connection: Any) -> correlation.Opened:
        work_in(connection)
        return correlation.open_incidents(connection, fleet.topology, WINDOW, now)

    while alerts:
        for _ in range(1 if largest == 1 else dice.randint(1, 3)):
            size = dice.randint(1, largest)
            body, now = notification(alerts[:size]), now + 0.1
            store.write(lambda c, body=body, now=now: statements.put_in_inbox(c, [(body, now)]))
            del alerts[:size]
        while store.read(statements.anything_new):
            store.write(take_in)
    assert len(fleet.listed()) <= 3
    assert "root" in fleet.causes()
    assert sum(sum(fleet.members(each).values()) for each in fleet.listed()) == 500
    merged = [row for row in fleet.listed(merged=True) if row.merged_into is not None]
    assert all(fleet.members(row) == {} for row in merged)


NAMES = ("a", "b", "c", "d", "e")
GRAPHS = st.dictionaries(st.sampled_from(NAMES), st.lists(st.sampled_from(NAMES), max_size=3, unique=True))
ARRIVALS = st.lists(st.lists(st.sampled_from(NAMES), min_size=1, max_size=4), min_size=1, max_size=8)


@settings(max_examples=50, deadline=None)
@given(edges=GRAPHS, arrivals=ARRIVALS)
def test_in_any_graph_and_order_no_open_incident_is_a_symptom_of_another(
    edges: dict[str, list[str]], arrivals: list[list[str]]
) -> None:
    """Within the window each alert belongs to one open incident: of its service or of what that needs."""
    with scratch_store() as store:
        fleet = Fleet(store, {name: edges.get(name, []) for name in NAMES})
        for number, services in enumerate(arrivals):
            taken = [alert(service, 10 * number + index) for index, service in enumerate(services)]
            fleet.take(*taken, at=100.0 + number)
        causes = fleet.causes()
        assert len(set(causes)) == len(causes)
        for cause in causes:
            assert not set(fleet.topology.dependencies(cause)) & set(causes)
        placed = {row.service: fleet.members(row) for row in fleet.listed()}
        assert sum(sum(members.values()) for members in placed.values()) == sum(map(len, arrivals))
        for cause, members in placed.items():
            assert set(members) - {cause} <= set(fleet.topology.dependants(cause))
