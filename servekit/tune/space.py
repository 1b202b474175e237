"""Which values are tried for which key. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from servekit.config.batching import AUTO_EXECUTION_SIZE
from servekit.config.serving import Serving
from servekit.tune.setting import Setting, Value


@dataclass(frozen=True, slots=True)
class Axis:
    """Values that stand for each other, each a change of one or more keys. `ordered`: neighbours are alike, so that the
    search climbs from one to the next instead of trying all. `only_batched`: means nothing where batching is off."""

    name: str
    choices: tuple[Mapping[str, Value], ...]
    ordered: bool
    only_batched: bool = True

    def place(self, setting: Setting) -> int | None:
        """Which of the choices `setting` has; None for a value of the user's own that is none of them."""
        for number, choice in enumerate(self.choices):
            if all(setting[key] == value for key, value in choice.items()):
                return number
        return None


def axes(serving: Serving, cores: int, clients: int) -> list[Axis]:
    """In the order of what they usually move on a CPU: what runs at the same time first, waiting and padding last.

    auto stands among the numbers where serving.yaml's `auto` would put it, so that no number is tried twice. Only what
    serving.yaml allows together with its other values.
    """
    most, splits = serving.batching.max_batch_size, serving.batching.enable_large_batch_splitting
    auto = min(AUTO_EXECUTION_SIZE, most)
    rows: list[Value] = ["auto" if n == auto else n for n in sorted({1, 2, 4, 8, auto, 32, 64}) if n <= most]
    threads = sorted({*_halves(cores), cores * 2})
    return [
        Axis(
            "intra-op threads",
            _of("server.tensorflow_intra_op_parallelism", ["auto", *(n for n in _halves(cores) if n > 1)]),
            ordered=True,
            only_batched=False,
        ),
        Axis(
            "inter-op threads",
            _of("server.tensorflow_inter_op_parallelism", ["auto", 0, 1]),
            ordered=False,
            only_batched=False,
        ),
        Axis(
            "batch threads",
            _of("batching.num_batch_threads", ["auto" if n == cores else n for n in threads]),
            ordered=True,
        ),
        Axis(
            "rows that run at once",
            _of("batching.max_execution_batch_size", rows if splits else []),
            ordered=True,
        ),
        Axis("batching", _of("batching.enabled", [True, False]), ordered=False, only_batched=False),
        Axis("wait for a fuller batch", _of("batching.batch_timeout_micros", [0, 1000, 5000, 20_000]), ordered=True),
        Axis("padding", _of("batching.allowed_batch_sizes", [(), "auto"]), ordered=False),
        Axis("request threads", _request_threads(cores, clients), ordered=False, only_batched=False),
    ]


def _of(key: str, values: Sequence[Value]) -> tuple[Mapping[str, Value], ...]:
    return tuple({key: value} for value in values)


def _request_threads(cores: int, clients: int) -> tuple[Mapping[str, Value], ...]:
    """TF Serving answers 4 requests a core at a time; with more clients, more threads let more rows meet in a batch."""
    grpc, rest = "server.flags.grpc_max_threads", "server.flags.rest_api_num_threads"
    own: Mapping[str, Value] = {grpc: None, rest: None}
    return (own, {grpc: clients, rest: clients + 1}) if clients > 4 * cores else (own,)


def _halves(cores: int) -> list[int]:
    """1, ... cores / 4, cores / 2, cores."""
    found = {1, cores}
    while cores > 1:
        cores //= 2
        found.add(cores)
    return sorted(found)
