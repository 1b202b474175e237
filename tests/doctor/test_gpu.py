"""nvidia-smi's own lines, and drivers and GPUs of several generations."""

from __future__ import annotations

import dataclasses

import pytest

from servekit.doctor import gpu
from servekit.doctor.gpu import Gpu, GpuFacts
from servekit.doctor.programs import Answer

L4 = Gpu("NVIDIA L4", "555.42.06", 8.9, 23034)
GOOD = GpuFacts(True, (L4,), True, None, True, "tensorflow/serving:2.20.0-gpu", (2, 20, 0), True)


def codes(facts: GpuFacts) -> list[str]:
    return [found.code.removeprefix("gpu.") for found in gpu.judge(facts)]


def test_lines_of_nvidia_smi_are_read() -> None:
    text = "NVIDIA L4, 555.42.06, 8.9, 23034\nTesla P4, 470.256.02, [N/A], 7611\n"
    assert gpu.read_smi(Answer(0, text, "")) == (L4, Gpu("Tesla P4", "470.256.02", 0.0, 7611))
    assert gpu.read_smi(Answer(9, "NVIDIA-SMI has failed because it couldn't communicate with the driver.", "")) == ()


def test_a_gpu_that_fits_its_image_is_no_finding() -> None:
    assert codes(GOOD) == []


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"has_smi": False, "gpus": ()}, "no-driver"),
        ({"gpus": (), "problem": "couldn't communicate with the NVIDIA driver"}, "no-gpu"),
        ({"docker_knows_nvidia": False}, "no-runtime"),
        ({"docker_knows_nvidia": None}, None),
        ({"image": "tensorflow/serving:2.20.0"}, "cpu-image"),
        ({"grows": False}, "takes-all"),
        ({"gpus": (dataclasses.replace(L4, driver="470.256.02"),)}, "driver-old"),
        ({"gpus": (dataclasses.replace(L4, driver="535.183.01"),)}, "driver-older"),
        ({"gpus": (dataclasses.replace(L4, driver="535.183.01"),), "release": (2, 19, 1)}, None),
        ({"gpus": (dataclasses.replace(L4, driver="525.60.13"),), "release": (2, 19, 1)}, "driver-older"),
        ({"gpus": (dataclasses.replace(L4, capability=5.2),)}, "too-old"),
        ({"gpus": (dataclasses.replace(L4, capability=12.0),)}, "too-new"),
        ({"gpus": (dataclasses.replace(L4, capability=0.0),)}, None),
    ],
)
def test_what_does_not_fit(changes: dict[str, object], code: str | None) -> None:
    assert codes(dataclasses.replace(GOOD, **changes)) == ([code] if code else [])  # type: ignore[arg-type]


def test_a_gpu_that_nobody_asked_for_is_a_note_and_none_is_nothing() -> None:
    assert codes(dataclasses.replace(GOOD, wanted=False)) == ["unused"]
    assert codes(dataclasses.replace(GOOD, wanted=False, gpus=(), has_smi=False)) == []
