"""Which setting is tried next, and when a duel is decided."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from servekit.config.load import typed
from servekit.config.serving import Serving
from servekit.config.source import parse
from servekit.tune.figures import PAIRS, Figures, pair_ratios, verdict
from servekit.tune.search import Duel, search
from servekit.tune.setting import Setting, applied, setting_of, shown, unbatched
from servekit.tune.space import axes


def serving(text: str = "") -> Serving:
    return typed(parse(f"models: {{a: {{}}}}\n{text}", "serving.yaml"))


def played(wins: Callable[[Setting], float], start: Serving, cores: int = 4, clients: int = 64) -> list[Duel]:
    """All duels of a search in which the setting with the higher `wins` wins."""
    searching, duels = search(setting_of(start), axes(start, cores, clients)), []
    try:
        duel = next(searching)
        while True:
            duels.append(duel)
            duel = searching.send(wins(duel.challenger) > wins(duel.champion) * 1.02)
    except StopIteration as end:
        duels.append(Duel(end.value, end.value, "the end"))
    return duels


def test_the_best_value_of_each_key_is_found_by_climbing() -> None:
    def pace(setting: Setting) -> float:
        intra = {"auto": 1, 2: 1.2, 4: 1.1}[setting["server.tensorflow_intra_op_parallelism"]]
        rows = {1: 1, 2: 1.1, 4: 1.2, 8: 1.3, "auto": 1, 32: 1, 64: 1}[setting["batching.max_execution_batch_size"]]
        wait = {0: 1, 1000: 1.1, 5000: 1.2, 20_000: 1.3}[setting["batching.batch_timeout_micros"]]  # type: ignore[index]
        return intra * rows * wait if setting["batching.enabled"] else 0.5

    *duels, end = played(pace, serving())
    best = end.champion
    assert best["server.tensorflow_intra_op_parallelism"] == 2
    assert best["batching.max_execution_batch_size"] == 8
    assert best["batching.batch_timeout_micros"] == 20_000
    assert best["batching.enabled"] is True
    assert len(duels) < 30  # the whole grid has 3 * 3 * 4 * 7 * 2 * 4 * 2 * 2


def test_no_setting_is_tried_twice_and_nothing_is_changed_that_is_as_good() -> None:
    *duels, end = played(lambda _: 1.0, serving())
    tried = [duel.challenger.effective() for duel in duels]
    assert len(tried) == len(set(tried))
    assert end.champion == setting_of(serving())
    assert end.champion.effective() not in tried


def test_without_batching_its_parameters_are_not_tried() -> None:
    *duels, end = played(lambda setting: 2.0 if not setting["batching.enabled"] else 1.0, serving())
    assert end.champion["batching.enabled"] is False
    after = [duel for duel in duels if not duel.champion["batching.enabled"]]
    assert {duel.axis for duel in after} <= {"intra-op threads", "inter-op threads", "batching", "request threads"}


def test_values_of_the_users_own_are_a_start_like_any_other() -> None:
    own = serving("batching: {batch_timeout_micros: 700, max_batch_size: 4}\nserver: {flags: {grpc_max_threads: 9}}")
    *duels, end = played(lambda setting: 1.0 + (setting["batching.batch_timeout_micros"] == 700), own)
    assert end.champion == setting_of(own)
    rows = {duel.challenger["batching.max_execution_batch_size"] for duel in duels}
    assert rows <= {"auto", 1, 2}  # never more than one request may have


def test_only_settings_that_render_are_tried() -> None:
    for text in ("", "batching: {enable_large_batch_splitting: false}", "batching: {max_batch_size: 6}"):
        start = serving(text)
        for duel in played(lambda _: 1.0, start):
            assert list(applied(start, duel.challenger).findings()) == []


def test_a_setting_is_applied_and_read_back() -> None:
    start = serving("server: {flags: {rest_api_enable_cors_support: true}}")
    changed = setting_of(start).with_({"batching.allowed_batch_sizes": "auto", "server.flags.grpc_max_threads": 7})
    assert setting_of(applied(start, changed)) == changed
    assert applied(start, changed).server.flags == {"rest_api_enable_cors_support": True, "grpc_max_threads": 7}
    assert applied(applied(start, changed), setting_of(start)) == start
    assert shown(changed.differences(setting_of(start))) == "allowed_batch_sizes auto, grpc_max_threads 7"


def test_unbatched_is_what_tensorflow_serving_does_without_our_flags() -> None:
    bare = applied(serving(), unbatched(setting_of(serving())))
    assert not bare.batching.enabled
    assert bare.server.pools() == (0, 0)


@pytest.mark.parametrize(
    ("ratios", "expected"),
    [
        ([0.8], False),
        ([1.0], None),
        ([0.96, 0.95], False),
        ([0.96, 1.0], None),
        ([1.1, 1.2, 1.05], True),
        ([1.1, 0.99, 1.2], None),
        ([1.1, 0.99, 1.2, 1.1], True),
        ([1.01, 1.0, 1.02, 1.01], False),
    ],
)
def test_a_duel_ends_as_soon_as_it_is_clear(ratios: list[float], expected: bool | None) -> None:
    assert verdict(ratios) is expected
    assert len(ratios) < PAIRS or verdict(ratios) is not None


def figures(per_second: float, p99_ms: float | None = 100.0, errors: float = 0.0) -> Figures:
    return Figures(per_second, p99_ms, p99_ms, errors, 1.0, 1.0)


def test_what_is_late_or_refused_does_not_count() -> None:
    assert pair_ratios([figures(110)], [figures(100)], None) == [pytest.approx(1.1)]
    assert pair_ratios([figures(110, 200)], [figures(100, 90)], 100.0) == [pytest.approx(0.55)]
    assert pair_ratios([figures(500, errors=0.2)], [figures(100)], None) == [0.0]
    assert pair_ratios([figures(100)], [figures(0, None)], None) == [2.0]
