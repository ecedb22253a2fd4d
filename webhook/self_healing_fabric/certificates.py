"""Whom outgoing HTTPS calls trust, loaded once.

An HTTP client that is made for one call loads the authorities' certificates anew, also for plain HTTP: 30 ms
of CPU, which in a storm of a thousand repairs leaves nothing for taking notifications in.
"""

from __future__ import annotations

import functools
import ssl

import httpx


@functools.cache
def authorities() -> ssl.SSLContext:
    """The certificates that httpx trusts by default; the environment does not change them."""
    return httpx.create_ssl_context(trust_env=False)
