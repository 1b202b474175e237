"""The HTTP server itself, with a handler of the test's own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from servekit.server.http import HttpServer
from servekit.server.http_request import Request
from servekit.server.http_response import Response
from tests import plain_http
from tests.conftest import free_port


def answer(request: Request) -> Response:
    if request.target == "/raise":
        raise ValueError("a handler with a mistake")
    return Response(200, request.body)


def too_late(_request: Request) -> Response:
    return Response(504)


@pytest.fixture(params=[5])
def base_url(request: pytest.FixtureRequest) -> Iterator[str]:
    port = free_port()
    server = HttpServer(answer, host="127.0.0.1", port=port, threads=1, timeout_s=request.param, timed_out=too_late)
    server.start()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.stop(1)


def test_a_handler_that_raises_is_a_500_at_once_and_in_the_log(base_url: str, caplog: pytest.LogCaptureFixture) -> None:
    with plain_http.Http(base_url=base_url, timeout=20) as client:
        response = client.get("/raise")
        assert response.status_code == 500
        assert "Internal Server Error" in response.text
        assert client.post("/", content=b"on").content == b"on"
    assert "GET /raise was not answered" in caplog.text


@pytest.mark.parametrize("base_url", [0, -0.001], indirect=True)
def test_zero_and_less_are_no_time_limit(base_url: str) -> None:
    """`HttpRestApiHandler` of http_rest_api_handler.cc makes it RunOptions.timeout_in_ms, where they mean none."""
    with plain_http.Http(base_url=base_url, timeout=20) as client:
        assert client.post("/", content=b"on").content == b"on"
