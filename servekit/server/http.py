"""HTTP/1.1 on asyncio, with what clients can see of libevent's server.

Requests are handled by threads, for a prediction blocks; the event loop only reads, waits and writes, so a slow client
costs memory and no thread.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from servekit.server.cancellation import Cancellation, answering
from servekit.server.http_connection import Connection
from servekit.server.http_request import Request
from servekit.server.http_response import Response, html_page

logger = logging.getLogger(__name__)

MAX_CONNECTIONS_WAITING = 1024
SHUTDOWN_CHECK_S = 0.02

Handler = Callable[[Request], Response]


class HttpServer:
    """Listens from start() on; stop() refuses new connections and waits for running requests."""

    def __init__(
        self, handler: Handler, *, host: str, port: int, threads: int, timeout_s: float, timed_out: Handler
    ) -> None:
        """A request that is not answered after `timeout_s` gets the answer of `timed_out`; its thread goes on.

        `handler` answers every request; should it raise after all, the client gets a page that says 500.
        """
        self._handler = handler
        self._timed_out = timed_out
        self._timeout_s = timeout_s
        self._address = (host, port)
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="rest")
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="http", daemon=True)
        self._server: asyncio.Server | None = None
        self._connections: set[Connection] = set()

    def start(self) -> None:
        """Raises OSError when the address is taken."""
        _allow_many_files()
        family = socket.AF_INET6 if ":" in self._address[0] else socket.AF_INET
        listener = socket.create_server(self._address, family=family, backlog=MAX_CONNECTIONS_WAITING)
        self._thread.start()

        async def listen() -> None:
            self._server = await self._loop.create_server(
                lambda: Connection(self.handle, self._connections.add, self._connections.discard),
                sock=listener,
                backlog=MAX_CONNECTIONS_WAITING,
            )

        asyncio.run_coroutine_threadsafe(listen(), self._loop).result()

    def stop(self, grace_s: float) -> None:
        """Running requests get `grace_s` seconds; then every connection is closed."""
        if self._loop.is_closed():
            return
        asyncio.run_coroutine_threadsafe(self._drain(grace_s), self._loop).result()
        self._executor.shutdown(wait=False, cancel_futures=True)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _drain(self, grace_s: float) -> None:
        if self._server is not None:
            self._server.close()
        deadline = self._loop.time() + grace_s
        while any(connection.busy for connection in self._connections) and self._loop.time() < deadline:
            for connection in list(self._connections):
                connection.close_when_idle()
            await asyncio.sleep(SHUTDOWN_CHECK_S)
        for connection in list(self._connections):
            connection.close()

    def handle(self, request: Request, answer: Callable[[Response], None]) -> Cancellation:
        """Runs the handler in a thread; `answer` is called once, in the event loop.

        What is cancelled before its turn never runs; what waits for a batch is taken out of it.
        """
        done = False
        cancellation = Cancellation()

        def finish(response: Response) -> None:
            nonlocal done
            if not done:
                done = True
                timer.cancel()
                answer(response)

        def work() -> None:
            if done or cancellation.cancelled:
                return
            try:
                with answering(cancellation):
                    response = self._handler(request)
            except Exception:
                logger.exception("%s %s was not answered", request.method, request.target)
                response = html_page(500)
            if not self._loop.is_closed():
                self._loop.call_soon_threadsafe(finish, response)

        def give_up() -> None:
            if not done:
                finish(self._timed_out(request))
                cancellation.cancel()

        timer = self._loop.call_later(self._timeout_s, give_up)
        self._executor.submit(work)
        return cancellation


def _allow_many_files() -> None:
    """Raises the soft limit of open files to the hard one: each idle connection holds one."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
