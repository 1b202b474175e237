from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from servekit.errors import ExportError
from servekit.export.contradictions import checked_model, checked_questions
from servekit.export.recipe import Check, Limit, Model, Signature, Source, Spec

ANY = Spec("float32", (None,))
ONE = np.ones(1, np.float32)


def signature(*inputs: str, method: Any = "predict") -> Signature:
    return Signature(lambda *_, **__: {}, dict.fromkeys(inputs, ANY), method)


GOOD = Model({"serving_default": signature("x")}, Source("none"), warmup={"serving_default": {"x": ONE}})


def check(name: str = "serving_default", **inputs: Any) -> Check:
    return Check("halves", name, inputs, "y", ONE, Limit(max_abs=0.0))


def test_what_fits_together_passes() -> None:
    assert checked_model(GOOD) is GOOD
    assert len(checked_questions([check(x=ONE)], GOOD)) == 1


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (None, "build(options) returned nothing, a Model is expected"),
        ({}, "build(options) returned a dict, a Model is expected"),
        (replace(GOOD, signatures={}), "the Model has no signatures"),
        (replace(GOOD, signatures={"a": signature("x", method="guess")}), "signature a: method 'guess' is none of"),
        (
            replace(GOOD, signatures={"a": signature("x", method="classify")}),
            "signature a: classify takes one input, `inputs` (tf.Example), not x",
        ),
        (
            replace(GOOD, warmup={"serve": {"x": ONE}}),
            "warmup of serve: there is no signature serve; there is serving_default",
        ),
        (
            replace(GOOD, warmup={"serving_default": {"image": ONE}}),
            "warmup of serving_default: has the inputs image; serving_default takes x",
        ),
        (
            replace(GOOD, warmup={"serving_default": {"x": np.ones(8, np.float32)}}),
            "warmup of serving_default: x should be one item, [1, ...]",
        ),
    ],
)
def test_a_model_that_contradicts_itself_is_refused_in_its_own_words(returned: Any, message: str) -> None:
    with pytest.raises(ExportError) as caught:
        checked_model(returned)
    assert caught.value.message.startswith(message)


@pytest.mark.parametrize(
    ("questions", "message"),
    [
        (None, "checks returned nothing, a list of Check is expected"),
        ([ONE], "checks returned a list, a list of Check is expected"),
        ([check("nope", x=ONE)], "check 'halves': there is no signature nope; there is serving_default"),
        ([check(y=ONE)], "check 'halves': has the inputs y; serving_default takes x"),
    ],
)
def test_a_question_that_nobody_can_answer_is_refused(questions: Any, message: str) -> None:
    with pytest.raises(ExportError) as caught:
        checked_questions(questions, GOOD)
    assert caught.value.message == message
