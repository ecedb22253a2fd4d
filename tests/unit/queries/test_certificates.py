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
from shf_queries.certificates import ClientCertificate


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


def test_what_stays_wrong_is_told_once_while_the_pair_before_serves(
    shown: ClientCertificate,
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
