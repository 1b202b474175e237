"""Check `versions`: folders that TF Serving would ignore, refuse, or, worst, take although they are not whole."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from shlex import quote

from servekit.doctor.finding import Finding, Severity, error, listed, note, warning
from servekit.doctor.model_folders import ModelFacts, VersionFacts

MAX_WARMUP_RECORDS = 1000


def judge(models: Iterable[ModelFacts], *, tags: frozenset[str] = frozenset({"serve"})) -> Iterator[Finding]:
    """`tags`: of the meta graph that the server loads (--saved_model_tags)."""
    models = list(models)
    yield from _same_but_for_case(models)
    for model in models:
        yield from _model(model)
        yield from _same_number(model)
        served = model.served()
        for version in model.versions:
            yield from _version(model, version, served=version.number in served, tags=tags)


def _same_but_for_case(models: Iterable[ModelFacts]) -> Iterator[Finding]:
    by_name: dict[str, list[str]] = defaultdict(list)
    for model in models:
        by_name[model.name.casefold()].append(model.name)
    for names in by_name.values():
        if len(names) > 1:
            yield warning(
                "versions.same-but-for-case",
                f"models {listed(names, 9)}",
                "differ only in case: one folder on macOS and Windows, two on Linux",
                f"mv models/{names[-1]} models/ANOTHER_NAME",
            )


def _model(model: ModelFacts) -> Iterator[Finding]:
    if not model.exists:
        return  # check `config` says so
    if model.loose_model:
        yield Finding(
            "versions.no-version-folder",
            Severity.ERROR if model.model else Severity.WARNING,
            model.place,
            f"{model.loose_model} lies right in it; TF Serving looks for it in a folder whose name is a number",
            f"mkdir {model.place}/.new && mv {model.place}/[!.]* {model.place}/.new && "
            f"mv {model.place}/.new {model.place}/1",
        )
    elif model.model is None and any(one.has_model and one.number is not None for one in model.versions):
        yield note(
            "versions.not-served",
            model.place,
            "is not in serving.yaml: nothing serves it",
            f"add `{model.name}: {{}}` under `models:`, then servekit render",
        )


def _same_number(model: ModelFacts) -> Iterator[Finding]:
    by_number: dict[int, list[str]] = defaultdict(list)
    for version in model.versions:
        if version.number is not None:
            by_number[version.number].append(version.name)
    for number, names in by_number.items():
        if len(names) > 1:
            yield error(
                "versions.same-number",
                model.place,
                f"{listed(names)} are all version {number}: only one is served, and which one depends on the policy",
                f"rename or remove {model.place}/{names[0]}",
            )


def _version(model: ModelFacts, version: VersionFacts, *, served: bool, tags: frozenset[str]) -> Iterator[Finding]:
    place, number = version.place, version.number
    if number is None:
        if model.model or version.has_model:
            yield warning(
                "versions.ignored",
                place,
                f"TF Serving ignores it: {version.name!r} is no whole number",
                f"mv {quote(place)} {quote(model.place)}/{_next_number(model)}",
            )
        return
    if not version.is_folder:
        yield warning(
            "versions.file", place, "is a file; a version is a folder", f"mv {quote(place)} {quote(place)}.txt"
        )
        return
    if number < 0:
        yield warning(
            "versions.negative",
            place,
            "is served as a version that no REST path and no label can name",
            f"mv {quote(place)} {quote(model.place)}/{_next_number(model)}",
        )
    elif version.name != str(number):
        yield note(
            "versions.spelled",
            place,
            f"is version {number} to TF Serving and in every request",
            f"mv {quote(place)} {quote(model.place)}/{number}",
        )
    yield from _contents(version, served=served, tags=tags)


def _contents(version: VersionFacts, *, served: bool, tags: frozenset[str]) -> Iterator[Finding]:
    place = version.place
    bad = Severity.ERROR if served else Severity.WARNING
    again = f"copy it again, whole: to another name on the same disk, then mv it to {place}"
    if not version.has_model:
        if version.deeper:
            yield Finding(
                "versions.no-saved-model",
                bad,
                place,
                f"holds no saved_model.pb; one lies in {version.deeper}",
                f"mv {quote(version.deeper)}/* {quote(place)}/",
            )
        else:
            yield Finding(
                "versions.no-saved-model",
                bad,
                place,
                "holds no saved_model.pb: half copied? TF Serving fails to load it, and does not try again later",
                again,
            )
        return
    if version.problem:
        yield Finding("versions.broken-saved-model", bad, place, version.problem, again)
    if version.graph:
        if not version.has_variables_index and version.graph.has_variables:
            yield Finding(
                "versions.no-variables",
                bad,
                place,
                "has no variables/, but its graph has variables: TF Serving makes it AVAILABLE, unloads the "
                "version before it, and every request fails with Could not find variable",
                again,
            )
        if version.graph.tags and not any(tags <= set(found) for found in version.graph.tags):
            have = "; ".join(", ".join(found) or "none" for found in version.graph.tags)
            yield Finding(
                "versions.wrong-tags",
                bad,
                place,
                f"has no graph tagged {', '.join(sorted(tags))} (only: {have})",
                "save it with that tag, or set server.flags.saved_model_tags in serving.yaml",
            )
    if version.missing_shards:
        yield Finding(
            "versions.missing-shards",
            bad,
            place,
            f"lacks variables/{listed(version.missing_shards)}: half copied",
            again,
        )
    if version.changed:
        yield Finding(
            "versions.changed",
            bad,
            place,
            f"differs from its manifest in the size of {listed(version.changed)}: half copied, or changed after "
            "it was published",
            "export it as a new version; a running server never reads a version twice",
        )
    yield from _warmup(version, bad)


def _warmup(version: VersionFacts, bad: Severity) -> Iterator[Finding]:
    place = f"{version.place}/assets.extra/tf_serving_warmup_requests"
    remedy = f"rm {quote(place)}, and export the next version with servekit export"
    if version.warmup_problem:
        yield Finding(
            "versions.warmup-broken", bad, place, f"{version.warmup_problem}: the version will not load", remedy
        )
    elif version.warmup_records is not None and version.warmup_records > MAX_WARMUP_RECORDS:
        yield Finding(
            "versions.warmup-too-long",
            bad,
            place,
            f"has {version.warmup_records} records; with more than {MAX_WARMUP_RECORDS} the version will not load",
            remedy,
        )


def _next_number(model: ModelFacts) -> int:
    return max((one.number for one in model.versions if one.number is not None and one.number >= 0), default=0) + 1


def looked_at(models: Iterable[ModelFacts]) -> str:
    parts = []
    for model in models:
        numbers = [str(one.number) for one in model.versions if one.number is not None and one.is_folder]
        parts.append(f"{model.name} {', '.join(numbers) or '(no version)'}")
    return listed(parts, 4)
