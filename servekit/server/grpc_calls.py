"""A gRPC server for calls with one request, on the completion queue of gRPC's C core.

grpc.server() needs 250 to 380 us of Python a call (streams it has to be ready for, threads that it wakes three times a
call), more than everything else about a small prediction together; this needs 100. It stands on the Cython layer on
which grpc.server() stands: one thread polls the queue and answers what is quick (`polling`), a pool answers the rest.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from grpc._cython import cygrpc

from servekit.errors import Code, StatusError
from servekit.server.cancellation import Cancellation, answering
from servekit.server.polling import Polling, Quick
from servekit.server.workers import Workers

logger = logging.getLogger(__name__)

MAX_DETAILS_BYTES = 1024
_TRUNCATED = b"...TRUNCATED"

MAX_QUICK_BYTES = 1 << 16
"""Larger messages are answered in the pool."""

REFUSING_S = 0.1
"""So long a server that ends refuses new calls itself: once it has begun to close, gRPC's core cancels them."""

_POLL_S = 0.2
_STOPPING_POLL_S = 0.005
_INITIAL_METADATA = cygrpc.SendInitialMetadataOperation(None, 0)


@dataclass(frozen=True, slots=True)
class Method:
    """`answer` gets the request's bytes and returns the response's; may raise StatusError.

    `stays_open`: it is quick, its answer goes out at once, and the call, a stream, ends when the client or the server
    does. Of others `kind` says which requests take equally long; None: they always run in the pool.
    """

    answer: Callable[[bytes], bytes]
    stays_open: bool = False
    kind: Callable[[bytes], Hashable] | None = None


class CallServer:
    """Listens from start() on. Each call is answered in one of `threads` threads."""

    def __init__(
        self, methods: Mapping[str, Method], *, threads: int, options: Sequence[tuple[str, str | int]]
    ) -> None:
        """`methods` by full name: `/package.Service/Method`. Others are UNIMPLEMENTED."""
        self._methods = {name.encode(): method for name, method in methods.items()}
        self._completions = cygrpc.CompletionQueue()
        self._server = cygrpc.Server(tuple(options), False)
        self._server.register_completion_queue(self._completions)
        self._workers = Workers(threads, "grpc")
        self._polling = Polling(self._turn, "grpc")
        self._quick = Quick()
        self._open: set[_Call] = set()
        self._refusing = False
        self._stopping = False
        self._stopped = threading.Event()
        self._destroyable = False

    def listen(self, address: str, credentials: Any = None) -> None:
        """Before start(). `credentials` are a grpc.ServerCredentials or None. Raises OSError."""
        arguments = () if credentials is None else (credentials._credentials,)
        try:
            bound = self._server.add_http2_port(address.encode(), *arguments)
        except RuntimeError as error:
            raise OSError(str(error)) from None
        if not bound:
            raise OSError(f"Failed to bind to address {address}")

    def start(self) -> None:
        self._server.start()
        self._request_call()
        self._polling.start()

    def stop(self, grace_s: float) -> None:
        """New calls are UNAVAILABLE, for clients to try elsewhere; running ones end within `grace_s` seconds."""
        self._refusing = True
        refusing_s = min(REFUSING_S, grace_s)
        time.sleep(refusing_s)
        self._stopping = True
        self._server.shutdown(self._completions, self._on_shutdown)
        for call in list(self._open):
            if call.stays_open:
                call.fail(Code.CANCELLED, "")
        if not self._stopped.wait(grace_s - refusing_s):
            self._server.cancel_all_calls()
            self._stopped.wait(1)
        self._workers.stop()
        # Not before: shutdown() may still be inside the C core when the thread that polls hears that it is done.
        self._destroyable = True
        self._polling.join(_POLL_S)

    def _turn(self) -> bool:
        """Each event's tag is what to call with it."""
        if self._destroyable and self._stopped.is_set() and not self._open:
            self._server.destroy()
            return False
        event = self._completions.poll(time.time() + (_STOPPING_POLL_S if self._stopping else _POLL_S))
        if event.tag is not None:
            try:
                event.tag(event)
            except Exception:
                logger.exception("a gRPC event could not be handled")
        return True

    def _request_call(self) -> None:
        self._server.request_call(self._completions, self._completions, self._on_call)

    def _on_call(self, event: Any) -> None:
        if not self._stopping:
            self._request_call()
        if not event.success or event.call_details is None:
            return
        call = _Call(event.call, self._open.discard)
        self._open.add(call)
        method = self._methods.get(event.call_details.method)
        if self._refusing:
            call.fail(Code.UNAVAILABLE, "The server is ending.")
        elif method is None:
            call.fail(Code.UNIMPLEMENTED, "")
        else:
            self._receive(call, method)

    def _receive(self, call: _Call, method: Method) -> None:
        def on_message(received: Any) -> None:
            message = received.batch_operations[0].message()
            if message is None:
                call.fail(Code.UNIMPLEMENTED, "")
            elif method.stays_open:
                call.stays_open = True
                call.hear_of_close()
                call.send_and_stay(method.answer(message))
            elif not self._answered_here(call, method, message):
                # A run that has begun goes on to its end, whoever leaves: an event less for what need not wait for it.
                if method.kind is None or not self._workers.any_free:
                    call.hear_of_close()
                self._workers.submit(lambda: _answer(call, method, message))

        call.start((cygrpc.ReceiveMessageOperation(0),), on_message)

    def _answered_here(self, call: _Call, method: Method, message: bytes) -> bool:
        """Answers what should be quick in the thread that polls."""
        if method.kind is None or len(message) > MAX_QUICK_BYTES:
            return False
        kind, began = (method.answer, method.kind(message)), time.monotonic()
        if not self._quick.expected(kind, began) or not self._workers.borrow():
            return False
        self._polling.leave()
        _answer(call, method, message)
        self._polling.back()
        self._workers.give_back()
        ended = time.monotonic()
        self._quick.took(kind, ended - began, ended)
        return True

    def _on_shutdown(self, _event: Any) -> None:
        self._stopped.set()


class _Call:
    __slots__ = ("_call", "_hears_of_close", "_on_closed", "cancellation", "stays_open")

    def __init__(self, call: Any, on_closed: Callable[[_Call], None]) -> None:
        self._call = call
        self._on_closed = on_closed
        self._hears_of_close = False
        self.cancellation = Cancellation()
        self.stays_open = False

    def start(self, operations: tuple[Any, ...], then: Callable[[Any], None]) -> None:
        """`then` is called in the thread that polls, with the event of their completion."""
        self._call.start_server_batch(operations, then)

    def hear_of_close(self) -> None:
        """From now on a client that goes away cancels what is computed for it. Before the answer, or with it."""
        self._hears_of_close = True
        self.start((cygrpc.ReceiveCloseOnServerOperation(0),), self._closed)

    def send(self, message: bytes) -> None:
        ok = cygrpc.SendStatusFromServerOperation(None, 0, b"", 0)
        self._end((_INITIAL_METADATA, cygrpc.SendMessageOperation(message, 0), ok))

    def send_and_stay(self, message: bytes) -> None:
        self.start((_INITIAL_METADATA, cygrpc.SendMessageOperation(message, 0)), _nothing)

    def fail(self, code: Code, text: str) -> None:
        status = cygrpc.SendStatusFromServerOperation(None, int(code), details(text), 0)
        self._end((status,) if self.stays_open else (_INITIAL_METADATA, status))

    def _end(self, operations: tuple[Any, ...]) -> None:
        if self._hears_of_close:
            self.start(operations, _nothing)
        else:  # one event less for what is answered at once
            self.start((*operations, cygrpc.ReceiveCloseOnServerOperation(0)), self._closed)

    def _closed(self, event: Any) -> None:
        self._on_closed(self)
        if event.batch_operations[-1].cancelled():
            self.cancellation.cancel()


def details(message: str) -> bytes:
    """A status message as it goes on the wire: at most 1024 bytes, then `...TRUNCATED`."""
    raw = message.encode("utf-8", "surrogateescape")
    if len(raw) > MAX_DETAILS_BYTES:
        raw = raw[:MAX_DETAILS_BYTES] + _TRUNCATED
    return raw.decode("utf-8", "replace").encode()


def _answer(call: _Call, method: Method, message: bytes) -> None:
    if call.cancellation.cancelled:
        call.fail(Code.CANCELLED, "")
        return
    try:
        with answering(call.cancellation):
            response = method.answer(message)
    except StatusError as error:
        call.fail(error.code, error.message)
    except Exception as error:
        logger.exception("a call failed in the server itself")
        call.fail(Code.INTERNAL, f"{type(error).__name__}: {error}")
    else:
        call.send(response)


def _nothing(_event: Any) -> None:
    pass
