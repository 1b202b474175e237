"""Check `gpu`: driver, NVIDIA runtime and GPU generation against what the image was built for."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

from servekit.doctor.docker import DockerFacts, numbers
from servekit.doctor.finding import Finding, error, note, warning
from servekit.doctor.programs import Answer, ask
from servekit.doctor.stack import StackFacts

# CUDA of TF Serving's GPU images, from their Dockerfiles: 2.17 to 2.19 CUDA 12.2, 2.20 CUDA 12.5. Any driver from 525
# runs a CUDA 12 program by NVIDIA's compatibility rule; the number here is of the driver that came with that CUDA and
# knows all of its features.
_CUDA_BY_RELEASE: tuple[tuple[tuple[int, ...], str, int], ...] = (((2, 20), "12.5", 555), ((2, 17), "12.2", 535))
OLDEST_DRIVER = 525
OLDEST_CAPABILITY = 6.0
"""sm_60 is the first in the build's list; up to 9.0 it has code, above it PTX, compiled by the driver at each start."""
NEWEST_CAPABILITY = 9.0


@dataclass(frozen=True, slots=True)
class Gpu:
    name: str
    driver: str
    capability: float
    """Compute capability; 0 where an old nvidia-smi does not tell it."""
    memory_mib: int


@dataclass(frozen=True, slots=True)
class GpuFacts:
    """`wanted`: the stack asks for a GPU. `problem`: what nvidia-smi complains of."""

    wanted: bool
    gpus: tuple[Gpu, ...]
    has_smi: bool
    problem: str | None
    docker_knows_nvidia: bool | None
    """None without an engine to ask."""
    image: str = ""
    release: tuple[int, ...] = ()
    grows: bool = True
    """TF_FORCE_GPU_ALLOW_GROWTH, or a fraction of the memory, is set."""


def gather(stack: StackFacts, docker: DockerFacts, release: tuple[int, ...]) -> GpuFacts:
    query = ["nvidia-smi", "--query-gpu=name,driver_version,compute_cap,memory.total", "--format=csv,noheader,nounits"]
    answer = ask(query)
    service = stack.server()
    wanted = (service is not None and service.wants_gpu) or "gpu" in os.environ.get("COMPOSE_PROFILES", "").split(",")
    environment = (service.environment if service else None) or {}
    return GpuFacts(
        wanted,
        read_smi(answer),
        has_smi=answer.status != 127,
        problem=None if answer.ok else answer.complaint(),
        docker_knows_nvidia="nvidia" in docker.runtimes if docker.works else None,
        image=service.image if service else "",
        release=release,
        grows=environment.get("TF_FORCE_GPU_ALLOW_GROWTH", "false").lower() == "true",
    )


def read_smi(answer: Answer) -> tuple[Gpu, ...]:
    """Lines such as `NVIDIA L4, 550.54.15, 8.9, 23034`."""
    found = []
    for line in answer.out.splitlines() if answer.ok else ():
        parts = [part.strip() for part in line.split(",")]
        if len(parts) == 4:
            found.append(Gpu(parts[0], parts[1], _number(parts[2]), int(_number(parts[3]))))
    return tuple(found)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0


def judge(facts: GpuFacts) -> Iterator[Finding]:
    if not facts.wanted:
        if facts.gpus:
            yield note(
                "gpu.unused",
                facts.gpus[0].name,
                "is here, and the stack runs the CPU image",
                "COMPOSE_PROFILES=gpu in .env, then docker compose up -d",
            )
        return
    if not facts.has_smi:
        yield error(
            "gpu.no-driver",
            "nvidia-smi",
            "is not there: this machine has no NVIDIA driver, and the GPU image will not start",
            "install the driver, or take COMPOSE_PROFILES=gpu out of .env",
        )
    elif not facts.gpus:
        yield error(
            "gpu.no-gpu",
            "nvidia-smi",
            f"shows no GPU: {facts.problem or 'its list is empty'}",
            "nvidia-smi; after a driver update the machine has to be started again",
        )
    if facts.docker_knows_nvidia is False:
        yield error(
            "gpu.no-runtime",
            "docker engine",
            'has no nvidia runtime: could not select device driver "nvidia"',
            "install nvidia-container-toolkit, then: sudo nvidia-ctk runtime configure --runtime=docker && "
            "sudo systemctl restart docker",
        )
    if facts.image and "gpu" not in facts.image.rpartition(":")[2]:
        yield warning(
            "gpu.cpu-image",
            facts.image,
            "is asked to use a GPU and is no -gpu image",
            "set its tag to VERSION-gpu in .env",
        )
    for gpu in facts.gpus:
        yield from _gpu(gpu, facts)
    if facts.gpus and not facts.grows:
        yield note(
            "gpu.takes-all",
            facts.image or "the GPU image",
            "takes all memory of the GPU when it starts",
            "TF_FORCE_GPU_ALLOW_GROWTH=true, or server.flags.per_process_gpu_memory_fraction in serving.yaml",
        )


def _gpu(gpu: Gpu, facts: GpuFacts) -> Iterator[Finding]:
    driver = numbers(gpu.driver)
    cuda, known_by = next(
        ((cuda, known) for release, cuda, known in _CUDA_BY_RELEASE if facts.release >= release), ("12", 0)
    )
    if driver and driver[0] < OLDEST_DRIVER:
        yield error(
            "gpu.driver-old",
            gpu.name,
            f"driver {gpu.driver}: CUDA {cuda} of the image needs {OLDEST_DRIVER} or newer",
            f"install driver {max(known_by, OLDEST_DRIVER)} or newer",
        )
    elif driver and driver[0] < known_by:
        yield note(
            "gpu.driver-older",
            gpu.name,
            f"driver {gpu.driver} runs CUDA {cuda} by NVIDIA's compatibility rule; {known_by} came with it",
            f"if kernels fail: install driver {known_by} or newer",
        )
    if 0 < gpu.capability < OLDEST_CAPABILITY:
        yield error(
            "gpu.too-old",
            gpu.name,
            f"compute capability {gpu.capability}: the images have code from 6.0 on",
            "use the CPU image: take COMPOSE_PROFILES=gpu out of .env",
        )
    elif gpu.capability > NEWEST_CAPABILITY:
        yield warning(
            "gpu.too-new",
            gpu.name,
            f"compute capability {gpu.capability}: the images have code up to 9.0; the first "
            "start compiles for minutes, and users report failures (tensorflow/serving issue 4112)",
            "try it with a prediction before you rely on it",
        )


def looked_at(facts: GpuFacts) -> str:
    names = ", ".join(f"{gpu.name} (driver {gpu.driver})" for gpu in facts.gpus)
    return f"{names or 'no GPU'}; the stack {'asks for one' if facts.wanted else 'asks for none'}"
