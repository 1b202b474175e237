"""One TLS context for all questions to gates, Prometheus and Grafana: making one reads certificates, for 50 ms."""

from __future__ import annotations

import functools
import ssl

import httpx

_NO_AUTHORITIES = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def context(url: str) -> ssl.SSLContext:
    """For httpx' `verify`. Certificates of https addresses are checked, by the authorities (SSL_CERT_FILE,
    SSL_CERT_DIR, else those that httpx brings along) as they were when the first one was asked; http needs none."""
    return _checking() if url.lower().startswith("https:") else _NO_AUTHORITIES


@functools.cache
def _checking() -> ssl.SSLContext:
    return httpx.create_ssl_context()


def forget() -> None:
    """The authorities are read again."""
    _checking.cache_clear()
