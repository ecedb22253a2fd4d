"""A client certificate whose files are being replaced: the pair before serves, for a while."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
import trustme
from pytest_httpserver import HTTPServer

from self_healing_fabric import outbound
from self_healing_fabric.settings import AlertmanagerSettings
from shf_queries import PrometheusClient, certificates
from shf_queries.certificates import Authority, Certificates


def write(leaf: trustme.LeafCert, folder: Path, *names: str) -> None:
    """Its certificate, its key, or both."""
    content = {"crt": leaf.cert_chain_pems[0], "key": leaf.private_key_pem}
    for name in names or content:
        (folder / f"fabric.{name}").write_bytes(content[name].bytes())


def issued() -> trustme.LeafCert:
    """One of an authority of its own."""
    return trustme.CA().issue_cert("fabric.example")


@pytest.fixture
def shown(tmp_path: Path) -> Certificates:
    """A pair that fits."""
    write(issued(), tmp_path)

    def trusting() -> ssl.SSLContext:
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)

    return Certificates(trusting, pair=(tmp_path / "fabric.crt", tmp_path / "fabric.key"))


def test_what_has_not_changed_is_not_read_again(shown: Certificates) -> None:
    """Every call asks for it."""
    assert shown.context() is shown.context()


@pytest.mark.parametrize("half", ["crt", "key"])
def test_while_only_one_file_is_new_the_pair_before_serves(
    shown: Certificates, tmp_path: Path, half: str
) -> None:
    """Whichever is written first, and also if it is away; with the other one the new pair does."""
    before, renewed = shown.context(), issued()
    (tmp_path / f"fabric.{half}").unlink()
    assert shown.context() is before
    write(renewed, tmp_path, half)
    assert shown.context() is before
    write(renewed, tmp_path)
    assert shown.context() is not before


def test_what_stays_wrong_is_told_once_while_the_pair_before_serves(
    shown: Certificates,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """And is over as soon as it is put right."""
    before = shown.context()
    write(issued(), tmp_path, "key")
    assert shown.context() is before
    assert caplog.messages == []
    monkeypatch.setattr(certificates, "PATIENCE", 0.0)
    assert shown.context() is shown.context() is before
    (told,) = caplog.messages
    assert "fabric.key: is not the key of the certificate in" in told
    write(issued(), tmp_path)
    assert shown.context() is not before


def trusted(authorities: ssl.SSLContext) -> list[bytes]:
    """The certificates of those that a context trusts."""
    return authorities.get_ca_certs(binary_form=True)


def der(authority: trustme.CA) -> bytes:
    """Its certificate, as a context tells it."""
    return ssl.PEM_cert_to_DER_cert(authority.cert_pem.bytes().decode())


def test_the_authorities_in_the_file_now_are_trusted_and_those_before_no_more(tmp_path: Path) -> None:
    """Comments may name them in any language."""
    path, first, second = tmp_path / "ca.crt", trustme.CA(), trustme.CA()
    path.write_bytes(first.cert_pem.bytes())
    current = Certificates(lambda: ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), [Authority(path)])
    assert trusted(current.context()) == [der(first)]
    path.write_bytes("# Főtanúsítvány\n".encode() + second.cert_pem.bytes())
    assert trusted(current.context()) == [der(second)]
    assert current.context() is current.context()


@pytest.mark.parametrize("content", [None, b"", b"not yet"])
def test_while_their_file_cannot_be_used_the_authorities_before_are_trusted(
    shown: Certificates,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    content: bytes | None,
) -> None:
    """Which is told once; a certificate that is renewed meanwhile is shown all the same."""
    monkeypatch.setattr(certificates, "PATIENCE", 0.0)
    path, authority = tmp_path / "ca.crt", trustme.CA()
    path.write_bytes(authority.cert_pem.bytes())
    pair = (tmp_path / "fabric.crt", tmp_path / "fabric.key")
    current = Certificates(lambda: ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), [Authority(path)], pair)
    before = current.context()
    path.unlink() if content is None else path.write_bytes(content)
    assert current.context() is current.context() is before
    (told,) = caplog.messages
    assert f"the authorities before are trusted on: its files cannot be used: {path}: " in told
    write(issued(), tmp_path)
    assert current.context() is not before
    assert trusted(current.context()) == [der(authority)]


def test_who_asks_for_none_is_called_although_its_files_are_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, httpserver: HTTPServer
) -> None:
    """Whoever has to be called, over plain HTTP too, must not depend on what Prometheus asks for."""
    write(issued(), tmp_path)
    files = (tmp_path / "fabric.crt", tmp_path / "fabric.key")
    httpserver.expect_request("/").respond_with_data("taken")
    sample = {"metric": {}, "value": [0, "7"]}
    answer = {"status": "success", "data": {"resultType": "vector", "result": [sample]}}
    httpserver.expect_request("/api/v1/query").respond_with_json(answer)
    url = httpserver.url_for("")
    monkeypatch.setattr(outbound, "_own", outbound._Own())
    monkeypatch.setattr(certificates, "PATIENCE", 0.0)
    outbound.trust(None, *files)
    prometheus = PrometheusClient(url, cert_file=files[0], key_file=files[1])
    for each in files:
        each.unlink()
    with outbound.client_for(AlertmanagerSettings(url=url)) as client:
        assert client.get(url).text == "taken"
    assert prometheus.clock() == 7
    prometheus.close()
