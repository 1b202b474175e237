"""Broken preprocessing is told from another network by answers to pictures that are altered on purpose.

On a server: test_agreement.py.
"""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from servekit.analysis.faults import FAULTS, LEAST, Answer, Fault, Suspicion, View, views
from tests.conftest import ROOT

SIDE = 12


@pytest.fixture(scope="module")
def photographs() -> list[View]:
    """Crops of those of export/samples, small ones."""
    found = views([path.read_bytes() for path in sorted((ROOT / "export" / "samples").glob("*.jpg"))], 16)
    return [View(view.image.resize((view.image.width // 8, view.image.height // 8)), view.is_jpeg) for view in found]


def network(noise: float, fault: Fault | None = None, temperature: float = 1.0) -> Answer:
    """A classifier of ten classes that sees the middle of a picture; `noise` makes it another one, `temperature` less
    sure."""
    shapes = (SIDE * SIDE * 3, 80), (80,), (80, 10)
    first, shift, last = (np.random.default_rng(5 + index).normal(size=shape) for index, shape in enumerate(shapes))
    first += noise * np.random.default_rng(9).normal(size=first.shape)

    def answer(data: bytes) -> dict[int, float]:
        image = Image.open(io.BytesIO(data)).convert("RGB")
        whole = fault is not None and "squeezed" in fault.name
        if fault is not None and not whole:
            image = fault.done(image)
        cut = round(min(image.size) * 7 / 8)
        left, top = (image.width - cut) // 2, (image.height - cut) // 2
        box = None if whole else (left, top, left + cut, top + cut)
        pixels = np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BILINEAR, box=box), np.float64)
        hidden = np.maximum(np.tanh((pixels / 128 - 1).ravel() @ first / 5 + shift), 0)
        logits = hidden @ last / 3 / temperature
        scores = np.exp(logits - logits.max())
        return dict(enumerate(scores / scores.sum()))

    return answer


def suspected(canary: Answer, pictures: list[View]) -> Suspicion:
    suspicion = Suspicion(len(pictures))
    for view in pictures:
        suspicion.look(network(0), canary, view)
    return suspicion


@pytest.mark.parametrize(
    ("noise", "fault"),
    # Another network of this kind, whose units saturate, does not mind twice the contrast.
    [(noise, fault) for noise in (0.0, 0.2) for fault in FAULTS if not (noise and fault.name.startswith("twice"))],
    ids=lambda value: value.name if isinstance(value, Fault) else f"noise {value}",
)
def test_each_fault_is_found_and_named_also_in_another_network(
    photographs: list[View], noise: float, fault: Fault
) -> None:
    found = suspected(network(noise, fault), photographs)
    assert found.likeliest()[0] == fault.name
    assert f"looks wrong: {fault.name}" in str(found)


@pytest.mark.parametrize("noise", [0.0, 0.2, 0.4, 0.8], ids=["the same", "close", "another", "quite another"])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0], ids=["surer", "as sure", "less sure"])
def test_a_sound_network_is_not_suspected_however_it_differs(
    photographs: list[View], noise: float, temperature: float
) -> None:
    found = suspected(network(noise, temperature=temperature), photographs)
    assert (str(found), len(found.seen), found.missing) == ("", 16, 0)


def test_with_too_few_pictures_nothing_is_said(photographs: list[View]) -> None:
    swapped = network(0, FAULTS[0])
    assert str(suspected(swapped, photographs[: LEAST - 1])) == ""
    assert str(suspected(swapped, photographs[:LEAST])) != ""


def test_each_picture_is_asked_once_and_equal_answers_need_no_more(photographs: list[View]) -> None:
    asked: list[bytes] = []

    def stable(data: bytes) -> dict[int, float]:
        asked.append(data)
        return {1: 1.0}

    suspicion = Suspicion(2)
    for view in [*photographs[:2], photographs[0]]:
        suspicion.look(stable, lambda _: {1: 1.0}, view)
    assert (len(asked), suspicion.missing, suspicion.likeliest()[1]) == (2, 0, 0.0)


@pytest.mark.parametrize(
    ("stable", "canary"),
    [(lambda _: None, lambda _: {1: 1.0}), (lambda _: {1: 1.0}, lambda _: None), (lambda _: {1: 1.0}, lambda _: {})],
    ids=["stable", "canary", "NaN"],
)
def test_a_picture_without_an_answer_says_nothing(photographs: list[View], stable: Answer, canary: Answer) -> None:
    suspicion = Suspicion(5)
    suspicion.look(stable, canary, photographs[0])
    assert suspicion.missing == 5
    suspicion.look(lambda _: {1: 1.0}, lambda _: {2: 1.0}, photographs[0])
    assert suspicion.missing == 4, "a server that was full is asked again"


def test_few_pictures_become_many_crops_and_formats_of_one_picture_are_one() -> None:
    files = [path.read_bytes() for path in sorted((ROOT / "export" / "samples").glob("chelsea.*"))]
    found = views([b"no picture", b"", *files], 5)
    assert len(found) == 5
    assert found[0].image.size == (451, 300)
    assert all(view.image.width < 451 and view.is_jpeg for view in found[1:])
    assert [view.file() for view in views(files, 5)] == [view.file() for view in found]
    assert views([], 5) == views([b"none"], 5) == []
    assert len(views(files, 1)) == 1
