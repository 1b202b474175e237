"""Requests out of bytes: what libevent 2.1.12 takes, what it refuses, in whatever pieces it comes."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servekit.server import http_request
from servekit.server.http_request import RefusedError, Request, RequestReader
from servekit.server.http_response import Response, html_page, serialized


def read(data: bytes) -> list[Request]:
    reader = RequestReader()
    reader.feed(data)
    return all_of(reader)


def all_of(reader: RequestReader) -> list[Request]:
    found = []
    while (request := reader.next_request()) is not None:
        found.append(request)
    return found


def refusal(data: bytes) -> int | None:
    try:
        read(data)
    except RefusedError as refused:
        return refused.status
    return None


@pytest.mark.parametrize(
    ("head", "method", "target", "version"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "GET", "/", (1, 1)),
        (b"GET / HTTP/1.0\n\n", "GET", "/", (1, 0)),
        (b"GET /x HTTP/1.7   \r\n\n", "GET", "/x", (1, 7)),
        (b"GET /x HTTP/0.9\n\r\n", "GET", "/x", (0, 9)),
        (b"GET  /x HTTP/1.1\r\n\r\n", "GET", " /x", (1, 1)),
        (b"GET /a b HTTP/1.1\r\n\r\n", "GET", "/a b", (1, 1)),
        (b"GET v1/models HTTP/1.1\r\n\r\n", "GET", "v1/models", (1, 1)),
        (b"OPTIONS * HTTP/1.1\r\n\r\n", "OPTIONS", "*", (1, 1)),
        (b"GET http://h:80/x HTTP/1.1\r\n\r\n", "GET", "http://h:80/x", (1, 1)),
        (b"BREW /pot HTTP/1.1\r\n\r\n", "BREW", "/pot", (1, 1)),
        (b"GET /\xc3\xa9 HTTP/1.1\r\n\r\n", "GET", "/\xc3\xa9", (1, 1)),
        (b"GET /x HTTP/1.1\0 junk\r\n\r\n", "GET", "/x", (1, 1)),
    ],
)
def test_request_lines(head: bytes, method: str, target: str, version: tuple[int, int]) -> None:
    (request,) = read(head)
    assert (request.method, request.target, request.version) == (method, target, version)


@pytest.mark.parametrize(
    "head",
    [
        b"\r\n",
        b"GET\r\n",
        b"GET /x\r\n",
        b"GET / HTTP\r\n",
        b"A / HTTP/1.1\r\n",
        b"GET /x HTTP/2.0\r\n",
        b"GET /x HTTP/1.1x\r\n",
        b"GET /x http/1.1\r\n",
        b"GET  HTTP/1.1\r\n\r\n",
        b"GET half_plus:predict HTTP/1.1\r\n",
        b"GET http://h:99999/x HTTP/1.1\r\n",
        b"GET http://h:x/x HTTP/1.1\r\n",
        b"GET http://[::g]/x HTTP/1.1\r\n",
        b"GET / HTTP/1.1\r\nno colon\r\n",
        b"GET / HTTP/1.1\r\n folded: first\r\n",
        b"GET / HTTP/1.1\r\n" + b"x: " + b"y" * http_request.MAX_HEADER_BYTES,
    ],
)
def test_broken_heads_are_refused_without_waiting_for_their_end(head: bytes) -> None:
    assert refusal(head) == 400


@pytest.mark.parametrize(
    ("lines", "headers"),
    [
        (b"A: 1\r\nb:2\r\n", {"a": "1", "b": "2"}),
        (b"A: 1\r\na: 2\r\n", {"a": "1"}),
        (b"a: 1 \t\r\n 2\r\n\t3\r\n", {"a": "1 2 3"}),
        (b"a: 1\r\na: 2\r\n folded\r\n", {"a": "1"}),
        (b": x\r\na b: c: d\r\n", {"": "x", "a b": "c: d"}),
        (b"a:\r\n", {"a": ""}),
        (b"a: x\0y\r\n", {"a": "x"}),
    ],
)
def test_header_lines(lines: bytes, headers: dict[str, str]) -> None:
    (request,) = read(b"GET / HTTP/1.1\r\n" + lines + b"\r\n")
    assert request.headers == headers


@pytest.mark.parametrize(
    ("method", "headers", "sent", "body", "left"),
    [
        (b"POST", b"Content-Length: 3\r\n", b"abcdef", b"abc", 3),
        (b"POST", b"Content-Length: +3\r\n", b"abc", b"abc", 0),
        (b"POST", b"", b"abc", b"", 3),
        (b"POST", b"Connection: keep-alive\r\n", b"", b"", 0),
        (b"POST", b"Content-Length: 0\r\nExpect: magic\r\n", b"", b"", 0),
        (b"GET", b"Content-Length: 3\r\n", b"abc", b"abc", 0),
        (b"DELETE", b"Content-Length: 3\r\n", b"abc", b"abc", 0),
        (b"HEAD", b"Content-Length: 3\r\n", b"abc", b"", 3),
        (b"BREW", b"Content-Length: 3\r\n", b"abc", b"", 3),
        (b"POST", b"Transfer-Encoding: gzip\r\nContent-Length: 3\r\n", b"abc", b"abc", 0),
        (b"POST", b"Transfer-Encoding: CHUNKED\r\nContent-Length: 9\r\n", b"3\r\nabc\r\n0\r\n\r\n", b"abc", 0),
        (b"POST", b"Transfer-Encoding: chunked\r\n", b"0\r\n\r\n", b"", 0),
        (b"POST", b"Transfer-Encoding: chunked\r\n", b"0x2\nab\n\n\n1 ;x\nc\n0\n\n", b"abc", 0),
        (b"POST", b"Transfer-Encoding: chunked\r\n", b"2\r\nab\r\n0\r\nTrailer: x\r\n\r\nrest", b"ab", 4),
    ],
)
def test_bodies(method: bytes, headers: bytes, sent: bytes, body: bytes, left: int) -> None:
    reader = RequestReader()
    reader.feed(method + b" /x HTTP/1.1\r\n" + headers + b"\r\n" + sent)
    request = reader.next_request()
    assert request is not None
    assert (request.body, reader.unread_bytes) == (body, left)


@pytest.mark.parametrize(
    ("headers", "sent", "status"),
    [
        (b"Content-Length: abc\r\n", b"", 400),
        (b"Content-Length: -5\r\n", b"", 400),
        (b"Content-Length: \r\n", b"", 400),
        (b"Content-Length: 0x5\r\n", b"", 400),
        (b"Content-Length: 5, 5\r\n", b"", 400),
        (b"Content-Length: 5\r\nExpect: magic\r\n", b"", 417),
        (b"Content-Length: 99999999999\r\nExpect: 100-continue\r\n", b"", 413),
        (b"Transfer-Encoding: chunked\r\n", b"zz\r\n", 413),
        (b"Transfer-Encoding: chunked\r\n", b"-1\r\n", 413),
        (b"Transfer-Encoding: chunked\r\n", b"3;a=b\r\nabc\r\n", 413),
        (b"Transfer-Encoding: chunked\r\n", b"ffffffffffff\r\n", 413),
        (b"Transfer-Encoding: chunked\r\n", b"0\r\nno colon\r\n", 413),
    ],
)
def test_bodies_that_are_refused(headers: bytes, sent: bytes, status: int) -> None:
    assert refusal(b"POST /x HTTP/1.1\r\n" + headers + b"\r\n" + sent) == status


def test_a_body_that_says_to_be_too_long_is_waited_for_and_refused_when_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_request, "MAX_BODY_BYTES", 1000)
    reader = RequestReader()
    reader.feed(b"POST /x HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n")
    for _ in range(10):
        reader.feed(b"x" * 100)
        assert reader.next_request() is None
    reader.feed(b"x" * 100)
    with pytest.raises(RefusedError, match="413"):
        reader.next_request()


def test_who_expects_100_continue_is_told_unless_the_body_is_there() -> None:
    head = b"POST /x HTTP/1.1\r\nContent-Length: 3\r\nExpect: 100-Continue\r\n\r\n"
    reader = RequestReader()
    reader.feed(head)
    assert reader.next_request() is None
    assert reader.wants_continue
    reader.feed(b"abc")
    assert reader.next_request() == Request("POST", "/x", {"content-length": "3", "expect": "100-Continue"}, b"abc")
    assert not reader.wants_continue
    for other in (head + b"a", head.replace(b"HTTP/1.1", b"HTTP/1.0")):
        reader = RequestReader()
        reader.feed(other)
        assert reader.next_request() is None
        assert not reader.wants_continue


@pytest.mark.parametrize(
    ("request_", "closes", "keeps"),
    [
        (Request("GET", "/", {"connection": "Close"}), True, False),
        (Request("GET", "/", {"connection": "close, te"}), False, False),
        (Request("GET", "/", {"connection": "Keep-Alive, te"}), False, True),
        (Request("GET", "http://h/x", {}), True, False),
        (Request("GET", "http://h/x", {"proxy-connection": "keep-alive"}), False, False),
        (Request("CONNECT", "http://h/x", {}), False, False),
        (Request("GET", "ftp://h/x", {}), False, False),
    ],
)
def test_who_asks_to_close(request_: Request, closes: bool, keeps: bool) -> None:
    assert (request_.asks_to_close, request_.asks_to_keep_alive) == (closes, keeps)


@pytest.mark.parametrize(
    ("data", "start"),
    [
        (
            b"GET /v1/x HTTP/1.2\r\nno colon\r\n\r\n",
            "HTTP/1.2 400 Bad Request\r\nContent-Type: text/html\r\nConnection: close",
        ),
        (
            b"GET /v1/x HTTP/1.0\r\n\tfolded\r\n",
            "HTTP/1.1 400 Bad Request\r\nContent-Type: text/html\r\nConnection: close",
        ),
        (b"POST /v1/x HTTP/1.2\r\nContent-Length: x\r\n\r\n", "HTTP/1.2 400 Bad Request"),
        (b"POST /v1/x HTTP/1.2\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "HTTP/1.2 413 Request Entity Too Large"),
        (
            b"GET http://h:99999/v1/x HTTP/1.2\r\n\r\n",
            "HTTP/1.2 400 Bad Request\r\nContent-Type: text/html\r\nConnection: close",
        ),
        (
            b"GET http://h/v1/x HTTP/1.1\r\nno colon\r\n\r\n",
            "HTTP/1.1 400 Bad Request\r\nContent-Type: text/html\r\nDate",
        ),
        (b"GET /v1/x HTTP/2.0\r\n\r\n", "HTTP/1.1 400 Bad Request"),
    ],
)
def test_a_refusal_is_written_in_the_version_of_what_was_refused(data: bytes, start: str) -> None:
    reader = RequestReader()
    reader.feed(data)
    with pytest.raises(RefusedError) as refused:
        reader.next_request()
    page, closes = serialized(html_page(refused.value.status), refused.value.request)
    assert page.decode().startswith(start)
    assert closes


def test_head_gets_a_body_as_from_libevent_but_never_before_another_answer() -> None:
    """`evhttp_make_header` of libevent's http.c writes whatever is in the output buffer."""
    for headers in ({}, {"connection": "keep-alive"}):
        answer, closes = serialized(Response(200, b"body"), Request("HEAD", "/x", headers))
        assert answer.endswith(b"\r\n\r\n")
        assert not closes
    answer, closes = serialized(Response(200, b"body"), Request("HEAD", "/x", {"connection": "close"}))
    assert answer.endswith(b"\r\n\r\nbody")
    assert closes
    assert serialized(html_page(404), Request("HEAD", "/x"))[0].endswith(b"</HTML>\n")


def test_what_came_through_a_proxy_is_the_last_request_of_its_connection() -> None:
    for proxy in ({}, {"proxy-connection": "keep-alive"}):
        assert serialized(Response(200), Request("GET", "http://h/x", proxy))[1]


def test_a_header_that_begins_on_its_second_line_keeps_the_space_before_it() -> None:
    (request,) = read(b"GET / HTTP/1.1\r\nOrigin:\r\n\t http://x \r\nHost: a\r\n b\r\n\r\n")
    assert request.headers == {"origin": " http://x", "host": "a b"}


MESSAGES = (
    b"POST /v1/models/m:predict HTTP/1.1\r\nHost: h\r\nContent-Length: 20\r\n\r\n" + b'{"instances": [1.0]}',
    b"GET /v1/models/m HTTP/1.0\nConnection: keep-alive\n\n",
    b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n3\r\n wo\r\n0\r\nX: y\r\n\r\n",
)


@given(st.lists(st.sampled_from(MESSAGES), min_size=1, max_size=6), st.lists(st.integers(1, 40), max_size=60))
def test_pieces_do_not_matter(messages: list[bytes], cuts: list[int]) -> None:
    data = b"".join(messages)
    whole = read(data)
    assert len(whole) == len(messages)
    reader, found, start = RequestReader(), [], 0
    for size in [*cuts, len(data)]:
        reader.feed(data[start : start + size])
        start += size
        found += all_of(reader)
    assert found == whole


@given(st.binary(max_size=300))
def test_noise_is_refused_or_waited_for(noise: bytes) -> None:
    for start in (b"", b"GET / HTTP/1.1\r\n", b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"):
        reader = RequestReader()
        with contextlib.suppress(RefusedError):
            for data in (start, noise):
                reader.feed(data)
                all_of(reader)
