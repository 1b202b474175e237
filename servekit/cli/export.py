"""`servekit export`: builds a version with its recipe, proves it, publishes it."""

from __future__ import annotations

import signal
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any, Literal

import click

from servekit.cli.output import print_json, say, stage
from servekit.errors import ConfigError, ServekitError
from servekit.export import publish, recipes
from servekit.paths import Bundle, bundle

if TYPE_CHECKING:
    from servekit.export.pipeline import Stage


class _BatchSizes(click.ParamType):  # type: ignore[type-arg]  # generic only in click's stubs
    name = "N,N,..."

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        if value == "none":
            return ()
        try:
            sizes = tuple(int(part) for part in str(value).split(","))
        except ValueError:
            sizes = ()
        if not sizes or min(sizes) < 1:
            self.fail(f"{value!r} is not a list of batch sizes such as 1,8, nor none", param, ctx)
        return sizes


@click.command("export", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("model", required=False, metavar="MODEL")
@click.option("--version", type=click.IntRange(1, 2**63 - 1), help="Number of the version folder to publish.")
@click.option("--variant", metavar="NAME", help="Which weights; only needed when the version does not say it.")
@click.option("--source", metavar="PATH|ID", help="Weights to use, for recipes that take them (see --list).")
@click.option("--name", metavar="NAME", help="Publish under this name instead of the recipe's.")
@click.option("--list", "list_", is_flag=True, help="Show recipes, their variants and what is published.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
@click.option("--dry-run", is_flag=True, help="Build and check, publish nothing.")
@click.option(
    "--no-optimize", is_flag=True, help="Keep the graph as written: nothing folded or in pieces, weights as variables."
)
@click.option(
    "--precision",
    type=click.Choice(["float32", "bfloat16"]),
    default="float32",
    show_default=True,
    help="bfloat16: quicker on processors that have it (AVX512_BF16, AMX), slower on others.",
)
@click.option(
    "--scaled-jpeg",
    is_flag=True,
    help="Quicker for large photographs: libjpeg decodes them at a half, quarter or eighth, nearly as exactly.",
)
@click.option("--force-tolerance", is_flag=True, help="Publish although answers are out of tolerance.")
@click.option("--traceback", "show_traceback", is_flag=True, help="Show Python's traceback of a recipe's mistake.")
@click.option(
    "--warmup-batch",
    type=_BatchSizes(),
    help="Batch sizes that must be warm, or none; otherwise allowed_batch_sizes of serving.yaml, or 1 and 8 as far as "
    "5 s go.",
)
def command(
    model: str | None,
    version: int | None,
    variant: str | None,
    source: str | None,
    name: str | None,
    list_: bool,
    as_json: bool,
    dry_run: bool,
    no_optimize: bool,
    precision: Literal["float32", "bfloat16"],
    scaled_jpeg: bool,
    force_tolerance: bool,
    show_traceback: bool,
    warmup_batch: tuple[int, ...] | None,
) -> None:
    """Build version N of MODEL with export/MODEL.py, check it, publish models/MODEL/N.

    The version is loaded in a fresh process as TF Serving loads it, its answers are compared with the reference, its
    warmup records are run, and only then does it appear, in one rename. A published version is never changed.
    """
    from servekit.export.pipeline import Order, export

    here = bundle()
    if list_:
        _print_list(listing(here), as_json)
        return
    if model is None:
        raise click.UsageError("which MODEL? servekit export --list shows the recipes")
    target = name or model
    if not recipes.MODEL_NAME.fullmatch(target):
        raise click.UsageError(f"{target!r} cannot be a model's name: letters, digits, '_', '-' and '.' only")
    if version is None:
        found = recipes.load(here, model)
        free = recipes.next_version(found.recipe, publish.published_versions(here, target))
        raise click.UsageError(f"--version is missing; the next free version of {target} is {free}")
    order = Order(
        recipe=model,
        version=version,
        model=target,
        variant=variant,
        source=source,
        optimize=not no_optimize,
        precision=precision,
        scaled_jpeg=scaled_jpeg,
        warmup_batch_sizes=configured_batch_sizes(here) if warmup_batch is None else warmup_batch,
        force_tolerance=force_tolerance,
        dry_run=dry_run,
    )
    stage_or_end = _ended_by_signals()
    say(f"export {target} version {version}")
    try:
        result = export(here, order, stage_or_end, say)
    except ServekitError as error:
        if show_traceback and error.__cause__ is not None:
            traceback.print_exception(error.__cause__)
        raise
    shown = None if result.path is None else str(result.path.relative_to(here.root))
    if as_json:
        print_json({"path": shown, **result.manifest})
    elif shown is None:
        say("dry run: everything passed, nothing published")
    else:
        print(shown)


def _ended_by_signals() -> Stage:
    """`stage`, between two of which a signal ends the command at the latest, and staging is cleaned.

    A handler's exception alone is not enough: where TensorFlow's C++ code calls Python, it is lost now and then.
    """
    asked: list[BaseException] = []

    def end_with(error: BaseException) -> Callable[[int, FrameType | None], None]:
        def handler(_number: int, _frame: FrameType | None) -> None:
            asked.append(error)
            raise error

        return handler

    signal.signal(signal.SIGTERM, end_with(SystemExit(128 + signal.SIGTERM)))
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else our parent ignores it
        signal.signal(signal.SIGINT, end_with(KeyboardInterrupt()))

    def end_if_asked() -> None:
        if asked:
            raise asked[0]

    @contextmanager
    def stage_or_end(text: str) -> Iterator[None]:
        end_if_asked()
        with stage(text):
            yield
            end_if_asked()

    return stage_or_end


def configured_batch_sizes(here: Bundle) -> tuple[int, ...] | None:
    """What the server pads batches to, so that each is warm; None where it does not pad or serving.yaml is broken."""
    from servekit.config.load import load

    try:
        batching = load(here.serving_yaml).batching
    except ConfigError:  # `servekit render` says what is wrong with it
        return None
    sizes = batching.batch_sizes() if batching.enabled else ()
    return tuple(size for size in sizes if size <= batching.execution_size()) or None


def listing(here: Bundle) -> list[dict[str, Any]]:
    """One entry a recipe; a file that does not load is listed with its error."""
    entries: list[dict[str, Any]] = []
    for name in recipes.names(here):
        published = publish.published_versions(here, name)
        try:
            recipe = recipes.load(here, name).recipe
        except ServekitError as error:
            first = str(error).splitlines()[0]
            entries.append({"model": name, "error": first, "published": published})
            continue
        entries.append(
            {
                "model": name,
                "title": recipe.title,
                "licence": recipe.licence,
                "source": recipe.source,
                "variants": [
                    {"name": v.name, "version": v.version, "description": v.description} for v in recipe.variants
                ],
                "published": published,
                "next_version": recipes.next_version(recipe, published),
            }
        )
    return entries


def _print_list(entries: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        print_json({"recipes": entries})
        return
    for entry in entries:
        published = ", ".join(map(str, entry["published"])) or "nothing"
        if "error" in entry:
            print(f"{entry['model']}: does not load: {entry['error']}")
            continue
        print(f"{entry['model']}: {entry['title']} ({entry['licence']}); published: {published}")
        for variant in entry["variants"]:
            number = "--variant" if variant["version"] is None else f"version {variant['version']}"
            print(f"  {number:10} {variant['name']}: {variant['description']}")
        if entry["source"]:
            print(f"  --source   {entry['source']}")
