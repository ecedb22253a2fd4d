"""A client certificate whose files are being replaced: the pair before serves, for a while."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
import trustme

from shf_queries import certificates
from shf_queries.certificates import CertificateUnusable, ClientCertificate


def write(leaf: trustme.LeafCert, folder: Path, *names: str) -> None:
    """Its certificate, its key, or both."""
    content = {"crt": leaf.cert_chain_pems[0], "key": leaf.private_key_pem}
    for name in names or content:
        (folder / f"fabric.{name}").write_bytes(content[name].bytes())


def issued() -> trustme.LeafCert:
    """One of an authority of its own."""
    return trustme.CA().issue_cert("fabric.example")


@pytest.fixture
def shown(tmp_path: Path) -> ClientCertificate:
    """A pair that fits."""
    write(issued(), tmp_path)

    def trusting() -> ssl.SSLContext:
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)

    return ClientCertificate(tmp_path / "fabric.crt", tmp_path / "fabric.key", trusting)


def test_what_has_not_changed_is_not_read_again(shown: ClientCertificate) -> None:
    """Every call asks for it."""
    assert shown.context() is shown.context()


@pytest.mark.parametrize("half", ["crt", "key"])
def test_while_only_one_file_is_new_the_pair_before_serves(
    shown: ClientCertificate, tmp_path: Path, half: str
) -> None:
    """Whichever is written first, and also if it is away; with the other one the new pair does."""
    before, renewed = shown.context(), issued()
    (tmp_path / f"fabric.{half}").unlink()
    assert shown.context() is before
    write(renewed, tmp_path, half)
    assert shown.context() is before
    write(renewed, tmp_path)
    assert shown.context() is not before


def test_what_stays_wrong_is_told(
    shown: ClientCertificate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And is over as soon as it is put right."""
    before = shown.context()
    write(issued(), tmp_path, "key")
    assert shown.context() is before
    monkeypatch.setattr(certificates, "PATIENCE", 0.0)
    with pytest.raises(CertificateUnusable, match=r"fabric\.key: is not the key of the certificate in"):
        shown.context()
    write(issued(), tmp_path)
    assert shown.context() is not before
