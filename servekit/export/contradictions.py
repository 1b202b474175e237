"""What a recipe says that cannot be meant: found in its Model, before a graph is built, and said in its own words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from servekit.errors import ExportError
from servekit.export.recipe import Check, Model
from servekit.model_spec import DEFAULT_SIGNATURE

_METHODS = ("predict", "classify", "regress")


def checked_model(returned: Any) -> Model:
    """What `build` returned, if it is a Model that can be exported. Raises ExportError."""
    if not isinstance(returned, Model):
        raise ExportError(f"build(options) returned {_kind(returned)}, a Model is expected")
    if not returned.signatures:
        raise ExportError("the Model has no signatures, so nothing could be asked")
    for name, signature in returned.signatures.items():
        if signature.method not in _METHODS:
            raise ExportError(f"signature {name}: method {signature.method!r} is none of {_listed(_METHODS)}")
        if signature.method != "predict" and list(signature.inputs) != ["inputs"]:
            raise ExportError(
                f"signature {name}: {signature.method} takes one input, `inputs` (tf.Example), "
                f"not {_listed(signature.inputs)}"
            )
    for name, inputs in returned.warmup.items():
        _refuse_unknown(f"warmup of {name}", name, inputs, returned)
        several = [alias for alias, value in inputs.items() if value.shape[:1] != (1,)]
        if several and returned.batched and name == DEFAULT_SIGNATURE:  # the others are sent as they are
            raise ExportError(f"warmup of {name}: {several[0]} should be one item, [1, ...]")
    return returned


def checked_questions(checks: Any, model: Model) -> Sequence[Check]:
    """What `Model.checks` returned. Raises ExportError for a question that no signature could answer."""
    if not isinstance(checks, Sequence) or not all(isinstance(check, Check) for check in checks):
        raise ExportError(f"checks returned {_kind(checks)}, a list of Check is expected")
    for check in checks:
        _refuse_unknown(f"check {check.name!r}", check.signature, check.inputs, model)
    return checks


def _refuse_unknown(what: str, signature: str, inputs: Mapping[str, Any], model: Model) -> None:
    if signature not in model.signatures:
        raise ExportError(f"{what}: there is no signature {signature}; there is {_listed(model.signatures)}")
    wanted = model.signatures[signature].inputs
    if set(inputs) != set(wanted):
        raise ExportError(f"{what}: has the inputs {_listed(inputs)}; {signature} takes {_listed(wanted)}")


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"


def _kind(value: Any) -> str:
    return "nothing" if value is None else f"a {type(value).__name__}"
