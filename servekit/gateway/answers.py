"""What a running gateway says about itself, on its metrics port."""

from __future__ import annotations

import ssl

import httpx

_NO_AUTHORITIES = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""Its address is http: without this every question reads the system's certificates first, for 50 ms."""

_PAGES = ("/metrics", "/generation")


def served_generation(url: str, timeout_s: float) -> str | None:
    """The generation of the routes that Envoy serves now; None when it does not answer, or has no routes.

    `url` is that of its metrics port, such as http://127.0.0.1:9901. One of Envoy's threads answers; the others have
    the same routes within milliseconds.
    """
    return _page(url, "/generation", timeout_s)


def metrics_text(url: str, timeout_s: float) -> str | None:
    """The Prometheus page, for `counters.parse`; None when nobody answers. Histograms are at most a second old."""
    return _page(url, "/metrics", timeout_s)


def _page(url: str, path: str, timeout_s: float) -> str | None:
    base = url.rstrip("/")
    for page in _PAGES:
        base = base.removesuffix(page)
    try:
        answer = httpx.get(base + path, timeout=timeout_s, trust_env=False, verify=_NO_AUTHORITIES)
    except (httpx.HTTPError, httpx.InvalidURL):
        return None
    return answer.text if answer.status_code == 200 else None
