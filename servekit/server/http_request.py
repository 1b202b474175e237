"""HTTP/1 requests out of bytes, as libevent 2.1.12 reads them: what it accepts, what it refuses and with which page.

Sans I/O: bytes in by `feed`, whole requests out by `next_request`. The rules are those of `evhttp_parse_firstline_`,
`evhttp_parse_headers_`, `evhttp_get_body` and `evhttp_handle_chunked_read`; only the limits of size are our own.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from servekit.server.uri import is_for_a_proxy, is_reference

MAX_HEADER_BYTES = 1 << 20
MAX_BODY_BYTES = (1 << 31) - 1

METHODS_WITH_BODY = frozenset(("GET", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "CONNECT"))
"""Of others, HEAD and unknown ones among them, what follows the headers is the next request."""

_SHORTEST_LINE = len("GET / HTTP/1.0")
_VERSION = re.compile(r"HTTP/(\d{1,9})\.(\d{1,9})", re.ASCII)
_DECIMAL = re.compile(r"\s*\+?\d+", re.ASCII)
_HEX = re.compile(r"(\s*\+?(?:0[xX])?[0-9a-fA-F]+)(?: .*)?", re.ASCII)

Version = tuple[int, int]


@dataclass(slots=True)
class Request:
    """`target` is what stood in the request line; names of headers are in lower case, the first of a name counts.

    `given_up`: the client was told that it took too long; what becomes of it is nobody's business any more.
    """

    method: str
    target: str
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    version: Version = (1, 1)
    given_up: bool = False

    @property
    def for_proxy(self) -> bool:
        """An absolute http URI: libevent closes the connection after it."""
        return self.method != "CONNECT" and is_for_a_proxy(self.target)

    @property
    def asks_to_close(self) -> bool:
        """As it makes libevent write its headers; whoever asks through a proxy says so in Proxy-Connection."""
        if self.for_proxy:
            return self.headers.get("proxy-connection", "").lower() != "keep-alive"
        return self.headers.get("connection", "").lower() == "close"

    @property
    def asks_to_keep_alive(self) -> bool:
        return self.headers.get("connection", "")[:10].lower() == "keep-alive"


class RefusedError(Exception):
    """The connection gets libevent's page for `status`, in the version of the `request` so far, and is closed."""

    def __init__(self, status: int, request: Request | None = None) -> None:
        super().__init__(status)
        self.status = status
        self.request = request or Request("", "")


class RequestReader:
    """The requests of one connection, one after the other."""

    def __init__(self) -> None:
        self._unread = b""
        self._searched = 0  # of the unread bytes, what holds no end of headers
        self._checked = 0  # of headers that are not complete, how many bytes of whole lines are in order
        self._begun: Request | None = None  # its first line
        self._head: Request | None = None
        self._missing = 0  # bytes of a body whose length was given
        self._chunks: _Chunks | None = None
        self._received = 0
        self._body: list[bytes] = []
        self.wants_continue = False
        """The client waits for `100 Continue` before it sends the body; whoever says it sets this to False."""

    @property
    def unread_bytes(self) -> int:
        """What came after the request that `next_request` returned last."""
        return len(self._unread)

    def feed(self, data: bytes) -> None:
        if self._missing and not self._unread:
            self._take_body(data)
        else:
            self._unread = self._unread + data if self._unread else data

    def next_request(self) -> Request | None:
        """None while a part of it is still to come. Raises RefusedError; then this reader is of no more use."""
        if self._head is None and not self._read_head():
            return None
        if self._chunks is not None and not self._read_chunks():
            return None
        if self._missing and self._unread:
            data, self._unread = self._unread, b""
            self._take_body(data)
        if self._received > MAX_BODY_BYTES:
            raise RefusedError(413)
        if self._missing or self._head is None:
            return None
        request, self._head = self._head, None
        if self._body:
            request.body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
            self._body = []
        self._received, self._chunks, self.wants_continue = 0, None, False
        return request

    def _take_body(self, data: bytes) -> None:
        taken = data if len(data) <= self._missing else data[: self._missing]
        self._unread = data[len(taken) :]
        self._missing -= len(taken)
        self._received += len(taken)
        self._body.append(taken)

    def _read_head(self) -> bool:
        end, length = _end_of_headers(self._unread, self._searched)
        if max(end, 0) > MAX_HEADER_BYTES or (end < 0 and len(self._unread) > MAX_HEADER_BYTES):
            raise RefusedError(400)
        if end < 0:
            self._refuse_early()
            self._searched = max(len(self._unread) - 3, 0)
            return False
        text, self._unread = self._unread[:end], self._unread[end + length :]
        self._searched = self._checked = 0
        self._head = head = parse_head(text.removesuffix(b"\r") if length == 2 else text)
        if head.method in METHODS_WITH_BODY:
            try:
                self._expect_body(head)
            except RefusedError as refused:
                raise RefusedError(refused.status, head) from None
        return True

    def _refuse_early(self) -> None:
        """A broken line is answered at once; the end of the headers may never come."""
        end = self._unread.rfind(b"\n") + 1
        if end <= self._checked:
            return
        lines = _lines(self._unread[self._checked : end])[:-1]
        if not self._checked:
            self._begun = parse_request_line(lines.pop(0))
            _check_header_lines(lines, self._begun)
        elif any(":" not in line and line[:1] not in (" ", "\t") for line in lines):
            raise RefusedError(400, self._begun)
        self._checked = end

    def _expect_body(self, head: Request) -> None:
        if head.headers.get("transfer-encoding", "").lower() == "chunked":
            self._chunks = _Chunks()
        else:
            self._missing = content_length(head.headers)
            if not self._missing:
                return
        expected = head.headers.get("expect")
        if expected is None or head.version < (1, 1):
            return
        if expected.lower() != "100-continue":
            raise RefusedError(417)
        if self._missing > MAX_BODY_BYTES:
            raise RefusedError(413)
        self.wants_continue = not self._unread

    def _read_chunks(self) -> bool:
        assert self._chunks is not None
        data, self._unread = self._unread, b""
        try:
            rest = self._chunks.feed(data)
        except RefusedError as refused:
            raise RefusedError(refused.status, self._head) from None
        if rest is None:
            return False
        self._unread, self._body = rest, self._chunks.pieces
        return True


class _Chunks:
    """A chunked body. A size that is no number is refused as a body that is too long, as libevent does."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self._unread = b""
        self._missing = 0
        self._size = 0
        self._trailer: list[str] | None = None

    def feed(self, data: bytes) -> bytes | None:
        """What follows the body, once its end was in the data."""
        unread, start = self._unread + data if self._unread else data, 0
        while True:
            if self._missing:
                piece = unread[start : start + self._missing]
                self.pieces.append(piece)
                self._missing -= len(piece)
                start += len(piece)
                if self._missing:
                    break
            end = unread.find(b"\n", start)
            if end < 0:
                break
            line = unread[start:end].removesuffix(b"\r").partition(b"\0")[0].decode("latin-1")
            start = end + 1
            if self._trailer is None:
                self._read_size(line)
            elif line:
                self._trailer.append(line)
                _check_header_lines(self._trailer[-2:], status=413)
            else:
                return unread[start:]
        self._unread = unread[start:]
        if len(self._unread) > MAX_HEADER_BYTES:
            raise RefusedError(413)
        return None

    def _read_size(self, line: str) -> None:
        if not line:  # after the bytes of a chunk
            return
        match = _HEX.fullmatch(line)
        if match is None:
            raise RefusedError(413)
        self._missing = int(match[1], 16)
        self._size += self._missing
        if self._size > MAX_BODY_BYTES:
            raise RefusedError(413)
        if not self._missing:
            self._trailer = []


def parse_head(head: bytes) -> Request:
    """A request line and header lines, without the empty line that ends them. Raises RefusedError."""
    first, *lines = _lines(head)
    request = parse_request_line(first)
    headers = request.headers
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or name[:1] in (" ", "\t"):
            break
        headers.setdefault(name.lower(), value.strip(" \t"))
    else:
        return request
    _check_header_lines(lines, request)
    request.headers = {name.lower(): value for name, value in reversed(_unfolded(lines))}
    return request


def parse_request_line(line: str) -> Request:
    """Method, target and version. Raises RefusedError."""
    line = line.rstrip(" ")
    method, _, rest = line.partition(" ")
    target, _, version = rest.rpartition(" ")
    if version == "HTTP/1.1" and target[:1] == "/" and target[:2] != "//" and len(line) >= _SHORTEST_LINE:
        return Request(method, target)  # all but a few
    match = _VERSION.fullmatch(version)
    if len(line) < _SHORTEST_LINE or not target or match is None or int(match[1]) > 1:
        raise RefusedError(400)
    request = Request(method, target, version=(int(match[1]), int(match[2])))
    if not is_reference(target):
        request.target = ""  # of which nothing is known then
        raise RefusedError(400, request)
    return request


def content_length(headers: dict[str, str]) -> int:
    """0 where there is none, whatever Connection says. Raises RefusedError."""
    value = headers.get("content-length")
    if value is None:
        return 0
    if not _DECIMAL.fullmatch(value):
        raise RefusedError(400)
    return int(value)


def _end_of_headers(data: bytes, searched: int) -> tuple[int, int]:
    r"""Where the first empty line and what ends the line before it begin, and their length; (-1, 0) if there is none.

    A line ends with \n, whether \r stands before it or not.
    """
    end = data.find(b"\r\n\r\n", searched)
    short = data.find(b"\n\n", searched, end if end >= 0 else len(data))
    mixed = data.find(b"\n\r\n", searched, end + 1 if end >= 0 else len(data))
    if short < 0 and mixed < 0:
        return (end, 4) if end >= 0 else (-1, 0)
    return min((at, length) for at, length in ((end, 4), (short, 2), (mixed, 3)) if at >= 0)


def _lines(head: bytes) -> list[str]:
    text = head.decode("latin-1")
    lines = text.split("\r\n")
    if len(lines) == text.count("\n") + 1 and "\0" not in text:
        return lines
    return [line.removesuffix("\r").partition("\0")[0] for line in text.split("\n")]


def _check_header_lines(lines: list[str], request: Request | None = None, *, status: int = 400) -> None:
    for number, line in enumerate(lines):
        goes_on = line[:1] in (" ", "\t")
        if (goes_on and not number) or (not goes_on and ":" not in line):
            raise RefusedError(status, request)


def _unfolded(lines: list[str]) -> list[tuple[str, str]]:
    """Names and values. A line that begins with white space goes on where the one before it ended."""
    headers: list[tuple[str, str]] = []
    for line in lines:
        if line[:1] in (" ", "\t"):
            name, value = headers.pop()
            headers.append((name, " ".join((value, line.strip(" \t")))))
        else:
            name, _, value = line.partition(":")
            headers.append((name, value.strip(" \t")))
    return headers
