"""The certificate that a client shows to servers that ask for one, also when it is renewed meanwhile.

Certificates of clients live for days or hours, so their files are looked at for every call. A context by
which others connect at that moment is replaced and not changed: OpenSSL takes the certificate first and its
key after, and a connection begun between would show neither.

Whoever renews writes two files, one after the other, and for a moment they do not belong together. Meanwhile
the pair before serves, and also while they stay wrong, which the log tells: it is mostly valid still, and
most servers ask for none. Those that do refuse it when it is not.
"""

from __future__ import annotations

import logging
import os
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

PATIENCE = 60.0  # seconds for which whoever renews may take from one file to the other

log = logging.getLogger(__name__)


class CertificateUnusable(OSError):
    """The files hold no certificate with its key. `mistakes`: by `cert_file` and `key_file`, for a person."""

    def __init__(self, mistakes: Mapping[str, str]) -> None:
        super().__init__("; ".join(mistakes.values()))
        self.mistakes = mistakes


class ClientCertificate:
    """A certificate and its key in two files. Safe to share between threads.

    Raises CertificateUnusable; OSError from `trusting`.

    Args:
        cert_file: PEM; the certificates that lead to its authority may follow.
        key_file: PEM, without a password.
        trusting: makes a context with the authorities that are trusted, for each pair anew.
    """

    def __init__(self, cert_file: Path, key_file: Path, trusting: Callable[[], ssl.SSLContext]) -> None:
        self._cert_file, self._key_file, self._trusting = cert_file, key_file, trusting
        self._lock = threading.Lock()
        self._unusable_since: float | None = None
        self._told = False
        mistakes = _mistakes(cert_file, key_file)
        if mistakes:
            raise CertificateUnusable(mistakes)
        self._read = self._as_they_are()
        self._context = self._made()

    def context(self) -> ssl.SSLContext:
        """What shows the certificate that is in the files now; while they cannot be used, the one before."""
        with self._lock:
            try:
                there = self._as_they_are()
                if there != self._read:
                    self._context, self._read = self._made(), there
                self._unusable_since, self._told = None, False
            except OSError as error:  # ssl.SSLError among them
                self._note(error)
            return self._context

    def _note(self, error: OSError) -> None:
        """Tell once of what stays wrong."""
        now = time.monotonic()
        self._unusable_since = self._unusable_since or now
        if now - self._unusable_since >= PATIENCE and not self._told:
            told = "; ".join(_mistakes(self._cert_file, self._key_file).values()) or error
            log.error("the certificate before is shown on, for its files cannot be used: %s", told)
            self._told = True

    def _as_they_are(self) -> tuple[tuple[int, int, int], ...]:
        found = map(os.stat, (self._cert_file, self._key_file))
        return tuple((each.st_ino, each.st_mtime_ns, each.st_size) for each in found)

    def _made(self) -> ssl.SSLContext:
        context = self._trusting()
        _load(context, self._cert_file, self._key_file)
        return context


def _load(context: ssl.SSLContext, cert_file: Path, key_file: Path) -> None:
    # With a password, though a wrong one: without any OpenSSL asks for it at the terminal.
    context.load_cert_chain(cert_file, key_file, password="")


def _mistakes(cert_file: Path, key_file: Path) -> dict[str, str]:
    """What is wrong with each file, because OpenSSL does not say with which."""
    found: dict[str, str] = {}
    for name, path, judged in (
        ("cert_file", cert_file, _mistake_of_certificate),
        ("key_file", key_file, _mistake_of_key),
    ):
        try:
            mistake = judged(path.read_bytes())
        except OSError as error:
            mistake = error.strerror
        if mistake is not None:
            found[name] = f"{path}: {mistake}"
    if not found:
        try:
            _load(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), cert_file, key_file)
        except OSError as error:
            mismatch = getattr(error, "reason", None) == "KEY_VALUES_MISMATCH"
            told = f"is not the key of the certificate in {cert_file}" if mismatch else str(error)
            found["key_file"] = f"{key_file}: {told}"
    return found


def _mistake_of_certificate(content: bytes) -> str | None:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=content.decode("ascii"))
    except (ssl.SSLError, ValueError):  # ValueError: no text, or empty
        return "holds no certificate in PEM"
    return None


def _mistake_of_key(content: bytes) -> str | None:
    if b"PRIVATE KEY-----" not in content:
        return "holds no private key in PEM"
    return "is encrypted, and nobody is there to type its password" if b"ENCRYPTED" in content else None
