"""The authorities that a client trusts, and the certificate that it shows to servers that ask for one, also
when their files are replaced meanwhile.

Certificates of clients live for days or hours, and an authority is replaced while servers still show what the
one before has signed, so the files are looked at for every call. A context by which others connect at that
moment is replaced and not changed: OpenSSL takes the certificate first and its key after, and a connection
begun between would show neither.

Whoever renews writes two files, one after the other, and for a moment they do not belong together. Meanwhile
what was read before serves, and also while a file stays wrong, which the log tells: it is mostly valid still,
and most servers ask for no certificate. Those that do refuse it when it is not.
"""

from __future__ import annotations

import logging
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Generic, TypeVar

PATIENCE = 60.0  # seconds for which whoever renews may take from one file to the other

K = TypeVar("K")
T = TypeVar("T")

log = logging.getLogger(__name__)


class CertificateUnusable(OSError):
    """The files hold no certificate with its key. `mistakes`: by `ca_file`, `cert_file` and `key_file`, for a
    person."""

    def __init__(self, mistakes: Mapping[str, str]) -> None:
        super().__init__("; ".join(mistakes.values()))
        self.mistakes = mistakes


class _Renewed(Generic[K, T]):
    """What is made of files, anew when they have changed; while they cannot be used, what was made before.

    Raises what `make` does.

    Args:
        look: at the files; tells something else when they have changed.
        make: of what `look` told. Raises OSError.
        goes_on: what does while they cannot be used.
    """

    def __init__(self, look: Callable[[], K], make: Callable[[K], T], goes_on: str) -> None:
        self._look, self._make, self._goes_on = look, make, goes_on
        self._unusable_since: float | None = None
        self._told = False
        self._seen = look()
        self._made = make(self._seen)

    def now(self) -> T:
        """What is in the files now, or was before."""
        there = self._look()
        try:
            if there != self._seen:
                self._made, self._seen = self._make(there), there
            self._unusable_since, self._told = None, False
        except OSError as error:  # ssl.SSLError among them
            self._note(error)
        return self._made

    def _note(self, error: OSError) -> None:
        """Tell once of what stays wrong."""
        now = time.monotonic()
        self._unusable_since = self._unusable_since or now
        if now - self._unusable_since >= PATIENCE and not self._told:
            log.error("%s: its files cannot be used: %s", self._goes_on, error)
            self._told = True


class Authority:
    """The certificates of authorities in a file. Raises CertificateUnusable.

    Args:
        ca_file: PEM.
    """

    def __init__(self, ca_file: Path) -> None:
        self._pem = _Renewed(
            lambda: _version(ca_file),
            lambda _: _authorities(ca_file),
            "the authorities before are trusted on",
        )

    def pem(self) -> str:
        """Those that are in the file now; while it cannot be used, the ones before."""
        return self._pem.now()


class Certificates:
    """What a client trusts, and what it shows. Safe to share between threads.

    Raises CertificateUnusable; OSError from `trusting`.

    Args:
        trusting: makes a context with the authorities that are trusted anyhow, for each change anew.
        authorities: that are trusted, too.
        pair: two files in PEM: the certificate to show, which those that lead to its authority may follow,
            and its key, without a password.
    """

    def __init__(
        self,
        trusting: Callable[[], ssl.SSLContext],
        authorities: Iterable[Authority] = (),
        pair: tuple[Path, Path] | None = None,
    ) -> None:
        trusted = tuple(authorities)

        def made(there: tuple[tuple[str, ...], object]) -> ssl.SSLContext:
            if pair is not None and (mistakes := _mistakes(*pair)):
                raise CertificateUnusable(mistakes)
            context = trusting()
            for pem in there[0]:
                context.load_verify_locations(cadata=pem)
            if pair is not None:
                _load(context, *pair)
            return context

        self._lock = threading.Lock()
        self._context = _Renewed(
            lambda: (tuple(each.pem() for each in trusted), tuple(map(_version, pair or ()))),
            made,
            "the certificate before is shown on",
        )

    def context(self) -> ssl.SSLContext:
        """What trusts and shows what is in the files now; while they cannot be used, what was before."""
        with self._lock:
            return self._context.now()


def _version(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None  # to read it will tell why
    return found.st_ino, found.st_mtime_ns, found.st_size


def _authorities(ca_file: Path) -> str:
    """The text of the file, if OpenSSL takes it. Raises CertificateUnusable."""
    try:
        content = ca_file.read_bytes()
    except OSError as error:
        mistake: str | None = error.strerror
    else:
        mistake = _mistake_of_certificate(content)
    if mistake is not None:
        raise CertificateUnusable({"ca_file": f"{ca_file}: {mistake}"})
    return _text(content)


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
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=_text(content))
    except (ssl.SSLError, ValueError):  # ValueError: it is empty
        return "holds no certificate in PEM"
    return None


def _text(content: bytes) -> str:
    """Without what is no ASCII, which stands only in comments: names of authorities."""
    return content.decode("ascii", "ignore")


def _mistake_of_key(content: bytes) -> str | None:
    if b"PRIVATE KEY-----" not in content:
        return "holds no private key in PEM"
    return "is encrypted, and nobody is there to type its password" if b"ENCRYPTED" in content else None
