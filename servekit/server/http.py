"""HTTP/1.1 with what clients can see of libevent's server.

What is quick is answered where it was read, the rest by threads, for a prediction blocks. A slow client costs memory
and no thread.
"""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable

from servekit.server.cancellation import Cancellation, answering
from servekit.server.event_loop import EventLoop
from servekit.server.http_connection import Connection
from servekit.server.http_request import Request
from servekit.server.http_response import Response, html_page
from servekit.server.polling import Quick
from servekit.server.workers import Workers

logger = logging.getLogger(__name__)

MAX_CONNECTIONS_WAITING = 1024
SHUTDOWN_CHECK_S = 0.02

MAX_QUICK_BYTES = 1 << 16
"""Requests with a larger body are answered by a thread."""

Handler = Callable[[Request], Response]


class HttpServer:
    """Listens from start() on; stop() refuses new connections and waits for running requests."""

    def __init__(
        self,
        handler: Handler,
        *,
        host: str,
        port: int,
        threads: int,
        timeout_s: float,
        timed_out: Handler,
        may_be_quick: Callable[[Request], bool] = lambda _request: True,
    ) -> None:
        """A request that is not answered after `timeout_s` gets the answer of `timed_out`; its thread goes on.

        0 or less is no limit. What `may_be_quick` refuses is always answered by a thread. `handler` answers every
        request; should it raise after all, the client gets a page that says 500.
        """
        self._handler = handler
        self._timed_out = timed_out
        self._timeout_s = timeout_s
        self._may_be_quick = may_be_quick
        self._address = (host, port)
        self._quick = Quick()
        self._workers = Workers(threads, "rest")
        self._loop = EventLoop("http")
        self._connections: set[Connection] = set()
        self._started = False

    def start(self) -> None:
        """Raises OSError when the address is taken."""
        _allow_many_files()
        family = socket.AF_INET6 if ":" in self._address[0] else socket.AF_INET
        listener = socket.create_server(self._address, family=family, backlog=MAX_CONNECTIONS_WAITING)
        self._loop.start(listener, lambda: Connection(self, self._connections.add, self._connections.discard))
        self._started = True

    def stop(self, grace_s: float) -> None:
        """Running requests get `grace_s` seconds; then every connection is closed."""
        if not self._started:
            return
        self._started = False
        deadline = time.monotonic() + grace_s
        self._loop.call(self._loop.stop_listening)
        while self._loop.call(self._close_idle) and time.monotonic() < deadline:
            time.sleep(SHUTDOWN_CHECK_S)
        self._loop.call(self._close_all)
        self._workers.stop()
        self._loop.stop()

    def call_soon(self, callback: Callable[[], object]) -> None:
        """In the event loop, after what waits there."""
        self._loop.call_soon(callback)

    def handle(self, request: Request, answer: Callable[[Response], None]) -> Cancellation:
        """In the event loop: has the request answered; `answer` is called once, in the event loop.

        What is cancelled before its turn never runs; what waits for a batch is taken out of it.
        """
        running = _Running(request, answer)
        if self._timeout_s > 0:
            self._loop.add_timer(running, self._timeout_s, lambda: self._give_up(running))
        if len(request.body) <= MAX_QUICK_BYTES and self._may_be_quick(request):
            self._loop.call_soon(lambda: self._try_here(running))
        else:
            self._workers.submit(lambda: self._work(running))
        return running.cancellation

    def _try_here(self, running: _Running) -> None:
        polling, began = self._loop.polling, time.monotonic()
        kind = running.request.method, running.request.target
        if running.cancellation.cancelled:
            self._loop.remove_timer(running)
            return
        if not self._quick.expected(kind, began) or not self._workers.borrow():
            self._workers.submit(lambda: self._work(running))
            return
        polling.leave()
        response = self._answer(running)
        self._workers.give_back()
        if polling.back():
            self._finish(running, response)
        else:
            self._loop.call_soon(lambda: self._finish(running, response))
        ended = time.monotonic()
        self._quick.took(kind, ended - began, ended)

    def _work(self, running: _Running) -> None:
        if running.done or running.cancellation.cancelled:
            self._loop.call_soon(lambda: self._loop.remove_timer(running))
            return
        response = self._answer(running)
        self._loop.call_soon(lambda: self._finish(running, response))

    def _answer(self, running: _Running) -> Response:
        request = running.request
        try:
            with answering(running.cancellation):
                return self._handler(request)
        except Exception:
            logger.exception("%s %s was not answered", request.method, request.target)
            return html_page(500)

    def _give_up(self, running: _Running) -> None:
        self._finish(running, self._timed_out(running.request))
        running.cancellation.cancel()

    def _finish(self, running: _Running, response: Response) -> None:
        if not running.done:
            running.done = True
            self._loop.remove_timer(running)
            running.answer(response)

    def _close_idle(self) -> bool:
        """Whether others are busy."""
        for connection in list(self._connections):
            connection.close_when_idle()
        return any(connection.busy for connection in self._connections)

    def _close_all(self) -> None:
        for connection in list(self._connections):
            connection.close()


class _Running:
    """A request that is being answered."""

    __slots__ = ("answer", "cancellation", "done", "request")

    def __init__(self, request: Request, answer: Callable[[Response], None]) -> None:
        self.request = request
        self.answer = answer
        self.cancellation = Cancellation()
        self.done = False


def _allow_many_files() -> None:
    """Raises the soft limit of open files to the hard one: each idle connection holds one."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
