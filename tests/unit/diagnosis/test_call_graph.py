"""Callers suffer from callees, through services that nobody measures too."""

from self_healing_fabric.diagnosis.call_graph import CallGraph

GRAPH = CallGraph(
    [("web", "cart"), ("cart", "mesh"), ("mesh", "db"), ("db", "web"), ("mail", "web"), ("a", "a")]
)


def test_callees_are_found_through_unmeasured_ones() -> None:
    """Without series of the mesh, cart's callee is the database behind it."""
    assert GRAPH.callees("cart") == ("mesh",)
    assert GRAPH.callees("cart", ["cart", "db", "web"]) == ("db",)
    assert GRAPH.callees("nobody") == ()


def test_reachable_ends_in_a_circle() -> None:
    """Everything that calls lead to, itself included; callers are not."""
    assert GRAPH.reachable("web") == {"web", "cart", "mesh", "db"}
    assert GRAPH.reachable("alone") == {"alone"}


def test_a_service_does_not_call_itself() -> None:
    """Else it would explain itself away."""
    assert "a" not in GRAPH.services


def test_dependencies_of_the_configuration_are_calls() -> None:
    """Each service calls what it depends on."""
    assert CallGraph.of_dependencies({"web": ["cart", "db"], "db": []}).calls == (
        ("web", "cart"),
        ("web", "db"),
    )


def test_the_neighbourhood_holds_the_nearest_and_the_callers() -> None:
    """Reachable services by distance, then callers; at most as many as asked for."""
    assert GRAPH.neighbourhood("web", 60) == ("cart", "db", "mail", "mesh", "web")
    assert GRAPH.neighbourhood("web", 2) == ("cart", "web")
    assert GRAPH.neighbourhood("alone", 60) == ("alone",)
