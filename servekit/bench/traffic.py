"""What is sent, how fast, and what came of it: the values that pass between the command and the generator."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Request:
    """`target` is `POST /v1/models/...` or `/tensorflow.serving.PredictionService/Predict`."""

    target: str
    body: bytes


@dataclass(frozen=True, slots=True)
class Shape:
    """Closed loop: `clients` send one request after another. Open loop: requests arrive `rate` times a second,
    whether or not earlier ones are answered, at random times (a Poisson process)."""

    clients: int | None = None
    rate: float | None = None

    def __str__(self) -> str:
        if self.clients is not None:
            return f"{self.clients} client{'s' if self.clients > 1 else ''}"
        return f"{self.rate:g} a second"

    @property
    def level(self) -> float:
        return self.clients if self.clients is not None else self.rate or 0.0


@dataclass(frozen=True, slots=True)
class Job:
    """Load for one generator process. Requests are sent in turn, from the first again after the last."""

    url: str
    requests: tuple[Request, ...]
    shape: Shape
    seconds: float
    warmup_s: float
    timeout_s: float
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Sample:
    """What one job measured; warm-up left out.

    `latencies_s`: of good answers only. In an open loop they count from the moment at which the request was to be
    sent, so that a server which stalls cannot hide the requests that waited meanwhile (coordinated omission).
    `late_s`: open loop, how much later than meant requests were sent. `cpu`: of the generator, 1.0 is a whole core.
    """

    seconds: float
    latencies_s: Floats
    errors: Counter[str] = field(default_factory=Counter)
    received_bytes: int = 0
    sent_bytes: int = 0
    cpu: float = 0.0
    late_s: Floats = field(default_factory=lambda: np.zeros(0))

    @property
    def requests(self) -> int:
        return len(self.latencies_s) + sum(self.errors.values())


def together(samples: list[Sample]) -> Sample:
    """Rounds of the same load as one."""
    return Sample(
        seconds=sum(sample.seconds for sample in samples),
        latencies_s=_joined([sample.latencies_s for sample in samples]),
        errors=sum((sample.errors for sample in samples), Counter()),
        received_bytes=sum(sample.received_bytes for sample in samples),
        sent_bytes=sum(sample.sent_bytes for sample in samples),
        cpu=float(np.mean([sample.cpu for sample in samples])),
        late_s=_joined([sample.late_s for sample in samples]),
    )


def _joined(parts: list[Any]) -> Floats:
    return np.concatenate(parts) if parts else np.zeros(0)
