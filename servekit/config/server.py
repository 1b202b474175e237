"""Section `server`: ports, polling, threads and retries, by TF Serving's own flag names where it has one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import Field

from servekit.config.extra_flags import FLAGS_SCHEMA, extra_flag_finding
from servekit.config.section import INT64_MAX, MAX_CORES, Auto, AutoCores, Either, Finding, Section, is_int

INT32_MAX = 2**31 - 1
Port = Annotated[int, Field(ge=1, le=65535)]
Threads = Annotated[int, Field(ge=1, le=1024)]
OPS_IN_THE_THREAD_OF_THE_REQUEST = -1


def _pool(least: int) -> Either:
    return Either(
        f"auto or a whole number from {least} to {MAX_CORES}",
        lambda value: value == "auto" or is_int(value, least, MAX_CORES),
        {"anyOf": [{"const": "auto"}, {"type": "integer", "minimum": least, "maximum": MAX_CORES}]},
    )


IntraOp = Annotated[int | Auto, _pool(0)]
InterOp = Annotated[int | Auto, _pool(OPS_IN_THE_THREAD_OF_THE_REQUEST)]


class Server(Section):
    port: Port = 8500
    """gRPC."""

    rest_api_port: Port = 8501
    """REST and metrics."""

    poll_seconds: Annotated[int, Field(ge=1, le=86400)] = 1
    """How often the server reads models.config again and looks for new version folders."""

    cpus: AutoCores = "auto"
    """Cores that thread pools are sized for. auto: the server counts the machine's. Set it where a container is limited
    to fewer: the server counts the host's and its threads get in each other's way."""

    tensorflow_intra_op_parallelism: IntraOp = "auto"
    """Threads that one operation is divided among. auto: 1, since batches and requests that run at the same time fill
    the cores with less work in all. More where few requests come at a time and each is to be quick; 0: every core."""

    tensorflow_inter_op_parallelism: InterOp = "auto"
    """Threads for operations of one request that can run at the same time. auto: -1, none: they run one after the other
    in the thread of their request or batch, which saves handing each of them over. 0: as many as there are cores."""

    num_load_threads: Threads = 2
    """Versions that load at once. With none of its own (TF Serving's default) a load that retries stops all others."""

    num_unload_threads: Threads = 2
    """Versions that unload at once."""

    max_num_load_retries: Annotated[int, Field(ge=0, le=1000)] = 1
    """Further attempts at loading a version that failed. Versions are published whole, so few are needed."""

    load_retry_interval_micros: Annotated[int, Field(ge=0, le=INT64_MAX)] = 5_000_000
    """Pause before each of them."""

    rest_api_timeout_in_ms: Annotated[int, Field(ge=1, le=INT32_MAX)] = 30_000
    """A REST request that takes longer is answered 504."""

    enable_profiler: bool = False
    """The TensorFlow profiler's gRPC service: anybody who reaches the port can use it."""

    flags: Annotated[dict[str, Any], Field(json_schema_extra=FLAGS_SCHEMA)] = Field(default_factory=dict)
    """Further flags of tensorflow_model_server by name, without dashes."""

    def pools(self) -> tuple[int, int]:
        """Intra-op and inter-op threads in numbers; 0 leaves them to TensorFlow."""
        intra = 1 if self.tensorflow_intra_op_parallelism == "auto" else self.tensorflow_intra_op_parallelism
        if self.tensorflow_inter_op_parallelism != "auto":
            return intra, self.tensorflow_inter_op_parallelism
        return intra, OPS_IN_THE_THREAD_OF_THE_REQUEST if intra else 0

    def findings(self) -> Iterator[Finding]:
        for name, value in self.flags.items():
            if (finding := extra_flag_finding(name, value)) is not None:
                yield finding.under("flags")
        intra, inter = self.pools()
        if inter < 0 and intra == 0:
            yield Finding(
                ("tensorflow_inter_op_parallelism",),
                "is -1, which TF Serving does not take up without a number of intra-op threads",
                "give tensorflow_intra_op_parallelism a number from 1",
            )
        if self.port == self.rest_api_port:
            yield Finding(
                ("rest_api_port",),
                f"is {self.rest_api_port} like port: TF Serving would start without REST",
                "gRPC and REST need a port each, usually 8500 and 8501",
            )
