"""From a recipe to a published version: build, save, load in a fresh process, compare, warm up, write down, publish."""

from __future__ import annotations

import errno
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from servekit.errors import ExportError, ServekitError
from servekit.export import keras_settings, manifest, publish, quiet, recipes, warmup
from servekit.export.contradictions import checked_model, checked_questions
from servekit.export.fresh import FreshProcess, Loaded
from servekit.export.parity import Parity
from servekit.export.recipe import Options
from servekit.export.saved_model import read_meta_graphs
from servekit.paths import Bundle

Precision = Literal["float32", "bfloat16"]
Stage = Callable[[str], AbstractContextManager[None]]


@dataclass(frozen=True, slots=True)
class Order:
    """One export as the user asked for it."""

    recipe: str
    version: int
    model: str
    """Name to publish under; the recipe's own unless the user gave another."""
    variant: str | None = None
    source: str | None = None
    optimize: bool = True
    precision: Precision = "float32"
    scaled_jpeg: bool = False
    """Large JPEGs are decoded at a fraction of their size."""
    warmup_batch_sizes: Sequence[int] | None = None
    """That must be warm, or the version is refused. None: 1 and 8, as far as the limit goes."""
    force_tolerance: bool = False
    """Publish although an answer is out of its limit (the manifest says so)."""
    dry_run: bool = False
    """Do everything but the publishing."""


@dataclass(frozen=True, slots=True)
class Result:
    path: Path | None
    """None after a dry run."""
    manifest: dict[str, Any]


def export(bundle: Bundle, order: Order, stage: Stage, say: Callable[[str], None]) -> Result:
    """Publishes `models/<model>/<version>` or raises, leaving nothing. `stage` frames the steps, `say` gets facts."""
    keras_settings.use_tensorflow()  # a recipe may import Keras at its top
    found = recipes.load(bundle, order.recipe)
    variant = recipes.choose_variant(found.recipe, order.recipe, order.version, order.variant)
    if order.source is not None and found.recipe.source is None:
        raise ExportError(f"{order.recipe}: this recipe takes no --source")
    with _disk_errors(bundle):
        publish.refuse_overwrite(bundle, order.model, order.version)
        with publish.staging(bundle, order.model, order.version) as folder:
            built = folder / "version"
            with FreshProcess(folder / "check.log") as fresh:
                document = _build_and_check(found, variant, order, built, fresh, stage, say)
            if order.dry_run:
                return Result(None, document)
            with stage("publish"):
                manifest.write(built, document)
                return Result(publish.publish(built, bundle, order.model, order.version), document)


def _build_and_check(
    found: recipes.Found,
    variant: str,
    order: Order,
    folder: Path,
    fresh: FreshProcess,
    stage: Stage,
    say: Callable[[str], None],
) -> dict[str, Any]:
    with stage("import TensorFlow"):
        quiet.import_tensorflow(folder.with_name("import.log"))
        from servekit.export import fold, graph, pieces, precision
    with stage("read weights"), _recipe_errors(found):
        model = checked_model(found.build(Options(variant, _with_a_name(order.source))))
        if order.scaled_jpeg:
            if model.scaled_jpeg is None:
                raise ExportError(f"{order.recipe}: --scaled-jpeg is for classifiers of image files")
            model = checked_model(model.scaled_jpeg())
    with stage("build graph"), _recipe_errors(found):
        traced = written = None if model.network is None else graph.trace(model.network)
        folded = lowered = 0
        if traced is not None and order.optimize:
            traced, folded = fold.fold_batch_norm(traced)
        if order.precision == "bfloat16":
            traced, lowered = (None, 0) if traced is None else precision.in_bfloat16(traced)
            if not lowered:
                raise ExportError(f"{order.recipe}: it has nothing that bfloat16 would make quicker")
        in_pieces = False
        if traced is not None and order.optimize:
            traced, in_pieces = pieces.in_pieces(traced)
    with stage("save"), _recipe_errors(found):
        frozen = graph.save(model, traced, folder, freeze=order.optimize)
        records = warmup.requests(model, order.model, order.warmup_batch_sizes)
        warmup.write(folder, records)
        fresh.load(folder, warmup.LIMIT_S, all_of_default=order.warmup_batch_sizes is not None)
    with stage("reference answers"), _recipe_errors(found):
        questions = model.checks(lambda inputs: {} if written is None else graph.run_once(written, inputs))
        checks = checked_questions(questions, model)
    if lowered:
        checks = [replace(check, limit=check.reduced or check.limit) for check in checks]
    with stage("load as TF Serving does, warm up"):
        loaded = fresh.loaded()
        if order.warmup_batch_sizes is not None:
            _refuse_slow_warmup(loaded, order.warmup_batch_sizes)
    kept = [records[place] for place in loaded.kept]
    left_out = warmup.left_out(model, order.warmup_batch_sizes, kept)
    if len(kept) < len(records):
        warmup.write(folder, kept)
    if left_out:
        limits = f"{warmup.LIMIT_S:g} s or {warmup.LIMIT_BYTES / 1e6:g} MB used up"
        say(f"    no warmup for {_listed(left_out, kept)}: {limits}")
    with stage("compare"):
        parity = fresh.compare(checks)
    if not parity:
        say("    nothing was compared: the recipe has no questions with known answers")
    for result in parity:
        say(f"    {'ok ' if result.ok else 'BAD'} {result}")
    _refuse_bad_parity(order, parity)
    return manifest.compose(
        model=order.model,
        version=order.version,
        variant=variant,
        found=found,
        source=model.source,
        graph={"batch_norms_folded": folded, "frozen": frozen}
        | ({"in_bfloat16": lowered} if lowered else {})
        | ({"first_layers_in_pieces": pieces.PIECES} if in_pieces else {})
        | ({"scaled_jpeg": True} if order.scaled_jpeg else {}),
        meta_graphs=read_meta_graphs(folder),
        parity=parity,
        loaded=loaded,
        batch_sizes=warmup.useful_sizes(model, order.warmup_batch_sizes),
        without_warmup=left_out,
        features={name: signature.features for name, signature in model.signatures.items()},
        files=manifest.file_facts(folder),
    )


def _with_a_name(source: str | None) -> str | None:
    """`.` and `..` as the folder that they are: of a path its last part is shown and written down."""
    return str(Path(source).resolve()) if source and Path(source).name in ("", "..") else source


def _listed(left_out: Mapping[str, Sequence[int]], kept: Sequence[warmup.Record]) -> str:
    """Signatures that have no record; of those that have some, the batch sizes without."""
    some = {record.signature for record in kept}
    return ", ".join(
        f"{name} with batches of {', '.join(map(str, sizes))}" if name in some else name
        for name, sizes in left_out.items()
    )


def _refuse_slow_warmup(loaded: Loaded, batch_sizes: Sequence[int]) -> None:
    if loaded.warmup_s > warmup.LIMIT_S:
        raise ExportError(
            f"warmup: {len(loaded.kept)} records took {loaded.warmup_s:.1f} s, "
            f"at most {warmup.LIMIT_S:g} s are allowed, because every load of the version waits for them",
            hint="fewer or smaller batches: --warmup-batch 1"
            if max(batch_sizes) > 1
            else "to let the first client wait instead: --warmup-batch none",
        )


def _refuse_bad_parity(order: Order, parity: Sequence[Parity]) -> None:
    bad = [result for result in parity if not result.ok]
    if bad and not order.force_tolerance:
        named = [
            *(["--precision"] if order.precision == "bfloat16" else []),
            *(["--scaled-jpeg"] if order.scaled_jpeg else []),
        ]
        raise ExportError(
            f"{order.model}: the exported model's answers are not the expected ones: {'; '.join(map(str, bad))}",
            hint=(
                f"the network does not bear it: leave {' and '.join(named)} away"
                if named
                else "mend the recipe, or try --no-optimize; --force-tolerance publishes it all the same"
            ),
        )


@contextmanager
def _recipe_errors(found: recipes.Found) -> Iterator[None]:
    """A mistake in a recipe is shown with the line of the recipe, not with a traceback through TensorFlow."""
    try:
        yield
    except (ServekitError, OSError):
        raise
    except (Exception, SystemExit) as error:
        if isinstance(error, SystemExit) and error.code == 128 + signal.SIGTERM:  # the command's own
            raise
        if "No space left on device" in str(error):  # as TensorFlow's file writers put it
            raise OSError(errno.ENOSPC, "No space left on device") from error
        raise recipes.mistake(found.path, error) from error


@contextmanager
def _disk_errors(bundle: Bundle) -> Iterator[None]:
    """What the file system refuses, in one line that names the place inside the bundle."""
    try:
        yield
    except OSError as error:
        raise disk_error(bundle, error) from error


def disk_error(bundle: Bundle, error: OSError) -> ExportError:
    name = Path(str(error.filename)) if error.filename else bundle.models
    shown = str(name.relative_to(bundle.root)) if name.is_relative_to(bundle.root) else name.name
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return ExportError(
            "the disk is full; nothing was published", hint="df -h . shows it; an export needs about 100 MB"
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return ExportError(f"{shown}: not writable by this user", hint=f"ls -ld {shown}")
    return ExportError(f"{shown}: {error.strerror or error}")
