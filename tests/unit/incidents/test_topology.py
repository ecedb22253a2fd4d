"""The topology: who depends on whom, at how many hops, in graphs of any shape."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from self_healing_fabric.incidents.topology import Topology

SHOP = Topology(
    {"web": ["cart", "search"], "cart": ["db"], "search": ["db", "index"], "db": ["disk"]},
    ["web", "cart", "search", "db", "index", "disk", "lonely"],
)

NAMES = [f"s{number}" for number in range(6)]
EDGES = st.dictionaries(st.sampled_from(NAMES), st.lists(st.sampled_from(NAMES), max_size=4))


def test_dependencies_are_transitive_with_their_distance_nearest_first() -> None:
    """A failure two hops away is a likelier cause than one three hops away."""
    assert dict(SHOP.dependencies("web")) == {"cart": 1, "search": 1, "db": 2, "index": 2, "disk": 3}
    assert list(SHOP.dependencies("web").values()) == [1, 1, 2, 2, 3]
    assert dict(SHOP.dependencies("disk")) == {}


def test_dependants_are_the_other_direction() -> None:
    """All that a failing database can take down."""
    assert dict(SHOP.dependants("db")) == {"cart": 1, "search": 1, "web": 2}
    assert dict(SHOP.dependants("web")) == {}


def test_neighbours_are_those_one_hop_away() -> None:
    """Diagnosis asks only for what a service calls itself."""
    assert SHOP.direct_dependencies("web") == {"cart", "search"}
    assert SHOP.direct_dependants("db") == {"cart", "search"}
    assert SHOP.direct_dependencies("lonely") == SHOP.direct_dependants("lonely") == frozenset()


def test_a_service_that_is_not_configured_has_no_place() -> None:
    """Names of strangers neither lead anywhere nor connect two services."""
    graph = Topology({"a": ["stranger"], "stranger": ["b"]}, ["a", "b"])
    assert graph.services == {"a", "b"}
    assert dict(graph.dependencies("a")) == {}
    for name in ("stranger", ""):
        assert dict(graph.dependencies(name)) == dict(graph.dependants(name)) == {}
        assert graph.direct_dependencies(name) == graph.direct_dependants(name) == frozenset()


def test_a_cycle_ends_and_nobody_depends_on_himself() -> None:
    """Two services that call each other, and one that calls itself."""
    graph = Topology({"a": ["b", "a"], "b": ["c"], "c": ["a"]}, "abc")
    assert dict(graph.dependencies("a")) == {"b": 1, "c": 2}
    assert dict(graph.dependants("a")) == {"c": 1, "b": 2}
    assert graph.direct_dependencies("a") == {"b"}


def test_measured_edges_are_added_to_a_new_graph() -> None:
    """The old one stays as it is for those who still read it; unknown names are ignored."""
    more = SHOP.with_edges([("lonely", "web"), ("disk", "stranger"), ("stranger", "disk"), ("cart", "cart")])
    assert dict(more.dependencies("lonely"))["db"] == 3
    assert more.services == SHOP.services
    assert dict(SHOP.dependencies("lonely")) == {}
    assert dict(more.dependencies("disk")) == {}
    assert dict(more.dependencies("cart")) == dict(SHOP.dependencies("cart"))


@given(EDGES)
def test_any_graph_has_the_reach_of_its_shortest_paths(edges: dict[str, list[str]]) -> None:
    """Compared with distances by matrix relaxation, and both directions say the same."""
    graph = Topology(edges, NAMES)
    far = len(NAMES) + 1
    hops = {(a, b): 1 if b in edges.get(a, []) and a != b else far for a in NAMES for b in NAMES}
    for middle in NAMES:
        for a in NAMES:
            for b in NAMES:
                hops[a, b] = min(hops[a, b], hops[a, middle] + hops[middle, b])
    for a in NAMES:
        assert dict(graph.dependencies(a)) == {b: hops[a, b] for b in NAMES if a != b and hops[a, b] < far}
        assert dict(graph.dependants(a)) == {b: hops[b, a] for b in NAMES if a != b and hops[b, a] < far}
        distances = list(graph.dependencies(a).values())
        assert distances == sorted(distances)
