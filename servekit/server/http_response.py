"""HTTP answers to bytes: headers, their order and reason phrases are those of libevent's server."""

from __future__ import annotations

import email.utils
import functools
import time
from dataclasses import dataclass

from servekit.server.http_request import Request

_DEFAULT_CONTENT_TYPE = "text/html; charset=ISO-8859-1"

_PHRASES = {
    200: "OK",
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    409: "Conflict",
    413: "Request Entity Too Large",
    417: "Expectation Failed",
    500: "Internal Server Error",
    501: "Not Implemented",
    503: "Service Unavailable",
    504: "Gateway Time-out",
}
_CLASSES = {4: "Client Error", 5: "Server Error"}
"""Of codes that libevent has no phrase for, 429 and 499 among them."""


@dataclass(frozen=True, slots=True)
class Response:
    """`is_page`: libevent's own answer to what never reached a handler, after which the connection is closed."""

    status: int
    body: bytes = b""
    content_type: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()
    is_page: bool = False


def html_page(status: int) -> Response:
    reason = phrase(status)
    text = f"<HTML><HEAD>\n<TITLE>{status} {reason}</TITLE>\n</HEAD><BODY>\n<H1>{reason}</H1>\n</BODY></HTML>\n"
    return Response(status, text.encode(), "text/html", is_page=True)


def phrase(status: int) -> str:
    return _PHRASES.get(status) or _CLASSES[status // 100]


def serialized(response: Response, request: Request, *, closing: bool = False) -> tuple[bytes, bool]:
    """The bytes of the answer, and whether the connection is to be closed after them.

    `closing`: the server ends. After CONNECT libevent leaves the connection open although its page says otherwise.
    """
    major, minor = request.version
    if response.is_page and (not major or not minor):
        major, minor = 1, 1
    keeps = request.asks_to_keep_alive
    lines = [f"HTTP/{major}.{minor} {response.status} {phrase(response.status)}"]
    if response.content_type:
        lines.append(f"Content-Type: {response.content_type}")
    lines += [f"{name}: {value}" for name, value in response.headers]
    says_close = response.is_page and not request.asks_to_close
    if says_close:
        lines.append("Connection: close")
    if major == 1 and minor >= 1:
        lines.append(f"Date: {_date(int(time.time()))}")
    if major == 1 and minor == 0 and keeps:
        lines.append("Connection: keep-alive")
    if major == 1 and (minor >= 1 or keeps):
        lines.append(f"Content-Length: {len(response.body)}")
    if not response.content_type:
        lines.append(f"Content-Type: {_DEFAULT_CONTENT_TYPE}")
    if (request.asks_to_close and not request.for_proxy) or (closing and not says_close):
        lines.append("Connection: close")
    outdated = (major, minor) < (1, 1) and not keeps
    asked = (request.asks_to_close or request.for_proxy or response.is_page) and request.method != "CONNECT"
    head = ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
    closes = outdated or asked or closing
    # To HEAD libevent writes the body too; here only where no next answer follows that it could be taken for.
    return head if request.method == "HEAD" and not closes else head + response.body, closes


@functools.lru_cache(maxsize=4)
def _date(second: int) -> str:
    return email.utils.formatdate(second, usegmt=True)
