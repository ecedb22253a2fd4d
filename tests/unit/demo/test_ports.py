"""A port that was reserved is nobody else's, whether its server runs or not."""

from __future__ import annotations

import socket
import sys

import pytest

from shf_demo.ports import free_ports, reserved_ports

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux lets a holder and a server share")


def is_refused(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) != 0


def can_be_taken(port: int) -> bool:
    with socket.socket() as other:
        try:
            other.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def test_a_reserved_port_is_held_before_between_and_after_its_servers() -> None:
    """Servers come and go on the port; meanwhile it refuses connections and nobody else can take it."""
    with reserved_ports(1) as (port,):
        for _ in range(2):
            assert is_refused(port)
            assert not can_be_taken(port)
            with socket.create_server(("127.0.0.1", port)):
                assert not is_refused(port)
        assert not can_be_taken(port)
    assert can_be_taken(port)


def test_two_runs_share_no_port() -> None:
    """What one holds, another does not get, however many they ask for."""
    with reserved_ports(100) as ours, reserved_ports(100) as theirs:
        assert not set(ours) & set(theirs)


def test_free_ports_are_different_and_outside_of_the_ephemeral_ranges() -> None:
    """The kernel gives none of them to an outgoing connection."""
    ports = free_ports(50)
    assert len(set(ports)) == 50
    assert max(ports) < 32_768
