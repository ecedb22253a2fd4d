"""Servers over TLS, as the tests wait for them."""

from __future__ import annotations

import ssl
import time

import httpx

from shf_demo.servers import Server


def wait_ready(server: Server, url: str, trusted: ssl.SSLContext) -> None:
    """As `Server` does, which trusts the public authorities alone and shows no certificate."""
    end = time.monotonic() + 60
    while True:
        server.check_running()
        try:
            if httpx.get(url, verify=trusted, trust_env=False).is_success:
                return
        except httpx.TransportError:
            pass
        assert time.monotonic() < end, f"{server.name} is not ready"
        time.sleep(0.1)
