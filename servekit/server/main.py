"""The embedded server's process: flags in, exit code out."""

from __future__ import annotations

import contextlib
import importlib.metadata
import logging
import os
import queue
import signal
import sys
import threading
from collections.abc import Sequence
from types import FrameType
from typing import NoReturn

from servekit import __version__
from servekit.errors import Code, StatusError
from servekit.server.log import log_to_stderr
from servekit.server.options import Options, parse, usage, without_effect

logger = logging.getLogger(__name__)

EXIT_FAILED = 255
"""What a shell sees of TF Serving's `return -1`."""

GRACE_S = 8.0
"""How long SIGTERM lets running requests end; under the 10 s after which `docker stop` kills."""

INTERRUPT_GRACE_S = 1.0
"""The same for Ctrl-C: somebody is waiting."""

HEARS_S = 0.5
"""So late a signal is heard at most."""

GRPC_EXPERIMENTS = (
    "-event_engine_listener,-event_engine_client,-event_engine_callback_cq,-event_engine_for_all_other_endpoints"
)
"""gRPC's core then reads and writes in the thread that polls, not in threads of its own: a sixth more small calls a
second, and one change of threads for eight. The names are those of the one grpcio series that pyproject.toml allows."""


def main(arguments: Sequence[str]) -> int:
    """Serves until a signal ends it. Does not return once it serves: the process ends here.

    SIGTERM: closes the ports, lets running requests end for up to 8 s, exits 0. SIGINT: the same for 1 s, then dies of
    SIGINT as a shell expects. A second signal ends it at once. 255: wrong value of a flag, or the server cannot start.
    """
    parsed = parse(arguments)
    if parsed.wants_help and not parsed.errors:
        _say(usage("servekit serve"))
        _say("SERVEKIT_BIND_ADDRESS (environment): the address to listen on; 0.0.0.0 if unset.\n")
        return 0
    log_to_stderr()
    if parsed.errors:
        for error in parsed.errors:
            logger.error("%s", error)
        _say(usage("servekit serve"))
        return EXIT_FAILED
    if parsed.options.version:
        _say(
            f"TensorFlow ModelServer: servekit {__version__}, behaves as 2.19.1\nTensorFlow Library: {_tensorflow()}\n"
        )
        return 0
    if parsed.unknown:
        more = "".join(f"nor is this one known: {argument}\n" for argument in parsed.unknown[1:])
        _say(f"unknown argument: {parsed.unknown[0]}\n{more}{usage('servekit serve')}")
    for name in without_effect(parsed.options):
        logger.warning("--%s has no effect in this server", name)
    return _exit(_serve(parsed.options))


def _serve(options: Options) -> int:
    """Starts the server in a thread, so that signals are heard meanwhile, and waits for one."""
    os.environ.setdefault("GRPC_EXPERIMENTS", GRPC_EXPERIMENTS)  # read once, when gRPC's core starts
    from servekit.server.server import Server

    events: queue.SimpleQueue[signal.Signals | StatusError] = queue.SimpleQueue()

    def on_signal(number: int, _frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)
        events.put(signal.Signals(number))

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)
    server = Server(options)

    def start() -> None:
        try:
            server.start()
        except StatusError as error:
            events.put(error)
        except Exception as error:
            logger.exception("Unexpected error while starting")
            events.put(StatusError(Code.INTERNAL, f"{type(error).__name__}: {error}"))

    threading.Thread(target=start, name="start", daemon=True).start()
    event = _first(events)
    if isinstance(event, StatusError):
        _say(f"Failed to start server. Error: {event}\n")
        return EXIT_FAILED
    logger.info("%s: closing the ports and waiting for running requests", event.name)
    server.stop(GRACE_S if event is signal.SIGTERM else INTERRUPT_GRACE_S)
    logger.info("The server has stopped")
    return 0 if event is signal.SIGTERM else -event


def _first(events: queue.SimpleQueue[signal.Signals | StatusError]) -> signal.Signals | StatusError:
    """Wakes now and then: the system may give a signal to any thread, Python hears it in this one, and only awake."""
    while True:
        with contextlib.suppress(queue.Empty):
            return events.get(timeout=HEARS_S)


def _say(text: str) -> None:
    """On stdout, as tensorflow_model_server does, in one piece: TensorFlow's C++ writes there at the same time."""
    sys.stdout.write(text)
    sys.stdout.flush()


def _exit(code: int) -> NoReturn:
    """Ends the process without waiting for threads: an op that never returns, or a load, must not keep it alive."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    if code < 0:
        os.kill(os.getpid(), -code)  # its handler is the default one again
    os._exit(code & 0xFF)


def _tensorflow() -> str:
    """The version, from the wheel's metadata: importing it takes seconds."""
    for wheel in ("tensorflow-cpu", "tensorflow"):
        try:
            return importlib.metadata.version(wheel)
        except importlib.metadata.PackageNotFoundError:
            continue
    return "not installed"
