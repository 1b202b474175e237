"""The load generator: a process of its own, so that its pace is its own.

Closed loop: each client sends its next request when the last is answered. Open loop: requests are sent at times drawn
beforehand, each measured from that time (Tene, "How NOT to measure latency", 2015, on coordinated omission).
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import multiprocessing
import multiprocessing.connection
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import numpy as np

from servekit.bench.traffic import Job, Request, Sample

MAX_IN_FLIGHT = 4096
"""Open loop: more than that are not sent and count as errors, lest the machine drown."""


class Sender(Protocol):
    async def send(self, request: Request) -> tuple[str | None, int]: ...

    async def close(self) -> None: ...


class Generator:
    """A process that makes load, one job after another; ends with the context."""

    def __enter__(self) -> Generator:
        context = multiprocessing.get_context("spawn")
        self._counts = context.Array("q", 2, lock=False)
        self._jobs, theirs = context.Pipe()
        self._process = context.Process(target=_main, args=(theirs, self._counts), daemon=True)
        self._process.start()
        theirs.close()
        return self

    def __exit__(self, *_: object) -> None:
        self._jobs.close()  # it then ends by itself, unless a job is under way
        self._process.join(1)
        self._process.kill()
        self._process.join()

    def run(self, job: Job, progress: Callable[[int, int], None] = lambda _good, _bad: None) -> Sample:
        """`progress` is told good and bad answers so far, some times a second."""
        self._counts[:] = [0, 0]
        self._jobs.send(job)
        while not self._jobs.poll(0.25):
            progress(self._counts[0], self._counts[1])
        try:
            result = self._jobs.recv()
        except EOFError:
            raise RuntimeError("the load generator died") from None
        if isinstance(result, BaseException):
            raise result
        assert isinstance(result, Sample)
        return result


def _main(jobs: multiprocessing.connection.Connection, counts: Any) -> None:
    gc.freeze()
    with contextlib.suppress(EOFError, KeyboardInterrupt, BrokenPipeError):
        while True:
            job = jobs.recv()
            gc.disable()  # a pause here would be told as the server's
            try:
                jobs.send(asyncio.run(_generate(job, counts)))
            except Exception as error:  # noqa: BLE001 - whatever it is, the process that asked shows it
                jobs.send(error)
            gc.enable()


async def _generate(job: Job, counts: Any) -> Sample:
    recorder = _Recorder(job, counts, _sender(job))
    try:
        if job.shape.clients is not None:
            await recorder.closed_loop(job.shape.clients)
        else:
            await recorder.open_loop(job.shape.rate or 1.0)
    finally:
        await recorder.sender.close()
    return recorder.sample()


def _sender(job: Job) -> Sender:
    if job.url.startswith("grpc"):
        from servekit.bench.grpc_sender import GrpcSender

        return GrpcSender(job.url, job.timeout_s, job.shape.clients)
    from servekit.bench.rest_sender import RestSender

    return RestSender(job.url, job.timeout_s)


class _Recorder:
    """Counts what begins after the warm-up and before the end; what then still runs is waited for."""

    def __init__(self, job: Job, counts: Any, sender: Sender) -> None:
        self.sender = sender
        self._job = job
        self._counts = counts
        self._requests: Iterator[Request] = itertools.cycle(job.requests)
        self._latencies: list[float] = []
        self._late: list[float] = []
        self._errors: Counter[str] = Counter()
        self._received = self._sent = 0
        self._cpu = 0.0
        self._begin = time.perf_counter() + job.warmup_s
        self._end = self._begin + job.seconds

    async def closed_loop(self, clients: int) -> None:
        measuring = asyncio.ensure_future(self._measure_cpu())
        await asyncio.gather(*(self._client() for _ in range(clients)))
        await measuring

    async def open_loop(self, rate: float) -> None:
        measuring = asyncio.ensure_future(self._measure_cpu())
        random, due = np.random.default_rng(self._job.seed), self._begin - self._job.warmup_s
        running: set[asyncio.Task[None]] = set()
        while (due := due + random.exponential(1 / rate)) < self._end:
            if (wait := due - time.perf_counter()) > 0:
                await asyncio.sleep(wait)
            if due >= self._begin:
                self._late.append(time.perf_counter() - due)
            if len(running) >= MAX_IN_FLIGHT:
                self._record(due, f"not sent: {MAX_IN_FLIGHT} under way", 0, 0)
                await asyncio.sleep(0)
                continue
            task = asyncio.ensure_future(self._one(due))
            running.add(task)
            task.add_done_callback(running.discard)
        await asyncio.gather(*running)
        await measuring

    def sample(self) -> Sample:
        return Sample(
            seconds=self._job.seconds,
            latencies_s=np.array(self._latencies),
            errors=self._errors,
            received_bytes=self._received,
            sent_bytes=self._sent,
            cpu=self._cpu,
            late_s=np.array(self._late),
        )

    async def _client(self) -> None:
        while (now := time.perf_counter()) < self._end:
            await self._one(now)

    async def _one(self, begin: float) -> None:
        request = next(self._requests)
        try:
            error, received = await self.sender.send(request)
        except asyncio.TimeoutError:
            error, received = f"no answer in {self._job.timeout_s:g} s", 0
        except OSError as problem:
            error, received = problem.strerror or str(problem) or type(problem).__name__, 0
            await asyncio.sleep(0.05)  # a server that refuses connections is not to be stormed
        self._record(begin, error, received, len(request.body))

    def _record(self, begin: float, error: str | None, received: int, sent: int) -> None:
        if begin < self._begin:
            return
        if error is None:
            self._latencies.append(time.perf_counter() - begin)
            self._counts[0] += 1
        else:
            self._errors[error] += 1
            self._counts[1] += 1
        self._received += received
        self._sent += sent

    async def _measure_cpu(self) -> None:
        await asyncio.sleep(self._begin - time.perf_counter())
        before, began = time.process_time(), time.perf_counter()
        await asyncio.sleep(max(self._end - time.perf_counter(), 0))
        self._cpu = (time.process_time() - before) / (time.perf_counter() - began)
