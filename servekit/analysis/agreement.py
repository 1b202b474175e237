"""Asks the same of stable and of canary, on the model server itself, and compares the answers."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from servekit.analysis import classes, faults
from servekit.analysis.compare import CannotCompare, Compared, Outputs, chosen, compare
from servekit.analysis.faults import Suspicion
from servekit.analysis.looks import CANARY, STABLE
from servekit.analysis.samples import Question, Sample, SampleError, picture
from servekit.analysis.verdict import Agreed, NoData
from servekit.client import Client, Metadata, ModelSpec
from servekit.client.ranking import flags
from servekit.config.canary import Agreement
from servekit.errors import Code, StatusError, Unreachable

ANSWER_S = 10.0
"""For one answer. A canary that takes longer where stable did not disagrees."""
BUSY = (Code.UNAVAILABLE, Code.RESOURCE_EXHAUSTED)
"""The server is full, which says nothing about the canary."""
_SHOWN = 3


@dataclass(slots=True)
class Sum:
    same: int = 0
    asked: int = 0
    kinds: dict[str, None] = field(default_factory=dict)
    differing: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    fault: str = ""

    def add(self, sample: str, compared: Compared) -> None:
        self.same += compared.same
        self.asked += compared.asked
        self.kinds[compared.kind] = None
        self.differing += [f"{sample}: {text}" for text in compared.differing]

    def agreed(self) -> Agreed:
        kind = next(iter(self.kinds)) if len(self.kinds) == 1 else "answers"
        shown = tuple(self.differing[:_SHOWN])
        return Agreed(self.same, self.asked, kind, shown, tuple(self.left_out), self.fault)


def in_turn(samples: Sequence[Sample], count: int, begin: int) -> list[Sample]:
    """At most `count` of them from `begin` on, going round."""
    return [samples[(begin + index) % len(samples)] for index in range(min(count, len(samples)))]


def ask(
    client: Client,
    model: str,
    samples: Sequence[Sample],
    agreement: Agreement,
    *,
    limit_s: float,
    suspicion: Suspicion | None = None,
    versions: tuple[int | None, int | None] | None = None,
    progress: Callable[[int, int], None] = lambda _done, _all: None,
) -> Agreed | NoData:
    """One sample after the other, so that live traffic hardly notices; what is not done after `limit_s` is left out.

    `suspicion`: what is known about faults of canary's preprocessing so far; it grows. None: they are not looked for.
    `versions`: what the labels are to mean; while the server still has others, there is nothing to say.
    """
    began = time.monotonic()
    deadline = began + limit_s
    try:
        labels = [
            client.metadata(ModelSpec(model, version_label=label), timeout_s=ANSWER_S) for label in (STABLE, CANARY)
        ]
    except StatusError as error:
        return NoData(f"the labels do not answer: {error}")
    stable, canary = labels
    if stable.version == canary.version:
        return NoData(f"both labels mean version {stable.version}")
    if versions not in (None, (stable.version, canary.version)):
        seen = f"stable is version {stable.version} and canary {canary.version}"
        return NoData(f"on the server {seen}; serving.yaml's are on their way")
    total = Sum()
    for done, sample in enumerate(samples):
        progress(done, len(samples))
        if time.monotonic() > deadline:
            total.left_out.append(f"{len(samples) - done} more: the {limit_s:.0f} s for samples were over")
            break
        try:
            _ask_both(client, sample, stable, canary, agreement, total)
        except Unreachable as error:
            return NoData(f"the model server went away: {error}")
        except CannotCompare as error:
            return NoData(str(error))
    if suspicion is not None and list(total.kinds) == ["best classes"]:
        pair_s = (time.monotonic() - began) / max(1, total.asked)
        try:
            _look_for_faults(client, samples, stable, canary, suspicion, deadline, pair_s)
        except Unreachable as error:
            return NoData(f"the model server went away: {error}")
        total.fault = str(suspicion)
    return total.agreed()


def _look_for_faults(
    client: Client, samples: Sequence[Sample], stable: Metadata, canary: Metadata, suspicion: Suspicion,
    deadline: float, pair_s: float,
) -> None:  # fmt: skip
    """At as many pictures as there is time for; the next check goes on. `pair_s`: for an answer of each version."""
    if not suspicion.missing:
        return
    found = []
    for sample in samples:
        with contextlib.suppress(SampleError):
            found.append(picture(sample.question(stable)))
    pictures = [one for one in found if one is not None]
    for view in faults.views([data for _, data in pictures], suspicion.wanted):
        if not suspicion.missing or time.monotonic() + len(faults.FAULTS) * pair_s > deadline:
            return
        suspicion.look(
            lambda data: _ranked(client, stable, pictures[0][0], data),
            lambda data: _ranked(client, canary, pictures[0][0], data),
            view,
        )


def _ranked(client: Client, version: Metadata, name: str, data: bytes) -> faults.Ranked | None:
    """A version's best classes for an image file; None where it has no answer, or scores that are no probabilities."""
    try:
        outputs = _answer(client, version, Question("predict", inputs={name: [data]}))
        kind, (score, *_) = chosen(outputs)
    except Unreachable:
        raise
    except (StatusError, CannotCompare):
        return None
    if kind != "best classes" or not len(outputs[score]):
        return None
    if flags(outputs, len(outputs[score])) == [False]:
        return None
    used = (score, *classes.companions(outputs, score))
    found = classes.ranked({one: outputs[one][0] for one in used}, score)
    return found if found and min(found.values()) >= 0 else None


def _ask_both(
    client: Client, sample: Sample, stable: Metadata, canary: Metadata, agreement: Agreement, total: Sum
) -> None:
    """Versions are asked, which stay what they are while labels move."""
    try:
        question = sample.question(stable)
        mine = _answer(client, stable, question)
    except SampleError as error:
        total.left_out.append(f"{sample.name}: {error.message}" if sample.name not in error.message else error.message)
        return
    except Unreachable:
        raise
    except StatusError as error:
        total.left_out.append(f"{sample.name}: stable answers {error}")
        return
    try:
        other = _answer(client, canary, question)
    except Unreachable:
        raise
    except StatusError as error:
        if error.code in BUSY:
            total.left_out.append(f"{sample.name}: canary answers {error}")
        else:
            total.asked += 1
            total.differing.append(f"{sample.name}: canary answers {error}")
        return
    compared = compare(mine, other, agreement)
    if compared.asked:
        total.add(sample.name, compared)
    else:
        total.left_out.append(f"{sample.name}: stable says that it is not valid")


def _answer(client: Client, version: Metadata, question: Question) -> Outputs:
    spec = ModelSpec(version.name, version=version.version, signature_name=question.signature_name)
    if question.method == "predict":
        return client.predict(spec, question.inputs, timeout_s=ANSWER_S).outputs
    context = question.context or None
    if question.method == "regress":
        return {"outputs": np.array(client.regress(spec, question.examples, context=context, timeout_s=ANSWER_S))}
    if question.method != "classify":
        raise SampleError(f"a {question.method} call is none that takes examples")
    rows = client.classify(spec, question.examples, context=context, timeout_s=ANSWER_S)
    size = min((len(row) for row in rows), default=0)
    outputs = {"scores": np.array([[one.score for one in row[:size]] for row in rows], dtype=np.float64)}
    labels = [[one.label.encode() for one in row[:size]] for row in rows]
    if any(label for row in labels for label in row):  # empty where the signature has no output `classes`
        outputs["classes"] = np.array(labels, dtype=object)
    return outputs
