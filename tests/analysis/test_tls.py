"""Certificates of gates, Prometheus and Grafana are checked, and the authorities read once."""

from __future__ import annotations

import ssl
import subprocess
import time
from pathlib import Path

import pytest

from servekit.analysis import tls
from servekit.analysis.annotate import Grafana
from servekit.analysis.gates import ask
from servekit.analysis.promql import Prometheus
from servekit.analysis.verdict import NoData
from servekit.config.canary import Gate
from tests.analysis.web import web


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, Path]:
    """A server's certificate for 127.0.0.1 that no authority has signed, and its file."""
    folder = tmp_path_factory.mktemp("tls")
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", certificate],
        check=True, capture_output=True,
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context, certificate


def test_a_certificate_that_nobody_signed_is_refused_by_all(own: tuple[ssl.SSLContext, Path]) -> None:
    with web(lambda _: (200, b"yes"), own[0]) as server:
        answer = ask(Gate(url=server.url), b"{}", Path())
        assert not answer.passed
        assert "CERTIFICATE_VERIFY_FAILED" in answer.text
        number = Prometheus(server.url).number("1")
        assert isinstance(number, NoData)
        assert "CERTIFICATE_VERIFY_FAILED" in number.why
        assert "CERTIFICATE_VERIFY_FAILED" in Grafana(server.url, token="x").annotate("m", "promoted", "x")
        assert server.asked == []


def test_an_authority_of_ones_own_is_trusted(own: tuple[ssl.SSLContext, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(own[1]))
    tls.forget()
    try:
        with web(lambda _: (200, b"yes"), own[0]) as server:
            assert ask(Gate(url=server.url), b"{}", Path()).text == "yes"
    finally:
        tls.forget()


def test_the_authorities_are_read_once() -> None:
    assert tls.context("https://a") is tls.context("HTTPS://b")
    assert tls.context("https://a").verify_mode is ssl.CERT_REQUIRED
    before = time.process_time()
    for _ in range(20):
        tls.context("http://127.0.0.1")
    assert time.process_time() - before < 0.05
