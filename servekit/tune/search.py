"""Which setting is tried next: coordinate descent, as a generator that asks for duels. Pure.

It yields a Duel and is sent whether the challenger won. It knows neither servers nor time: whoever runs it may stop at
any duel, `best` is then the winner of those that were fought, and with the same answers it asks the same questions
again (which is how a search goes on after an interruption).
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass

from servekit.tune.setting import Setting
from servekit.tune.space import Axis

MAX_PASSES = 3


@dataclass(frozen=True, slots=True)
class Duel:
    champion: Setting
    challenger: Setting
    axis: str


Search = Generator[Duel, bool, Setting]


def search(start: Setting, axes: Sequence[Axis]) -> Search:
    """Along one axis after the other, until a pass over all of them changes nothing."""
    best, tried = start, {start.effective()}
    for _ in range(MAX_PASSES):
        before = best
        for axis in axes:
            if not axis.only_batched or best["batching.enabled"]:
                best = yield from _along(axis, best, tried)
        if best == before:
            break
    return best


def _along(axis: Axis, best: Setting, tried: set[Setting]) -> Search:
    if axis.ordered and (place := axis.place(best)) is not None:
        for step in (-1, 1):
            moved = yield from _climb(axis, best, place, step, tried)
            if moved != best:
                return moved
        return best
    for choice in axis.choices:
        best = yield from _try(axis, best, best.with_(choice), tried)
    return best


def _climb(axis: Axis, best: Setting, place: int, step: int, tried: set[Setting]) -> Search:
    """From neighbour to neighbour as long as each is better than the one before."""
    while 0 <= (place := place + step) < len(axis.choices):
        moved = yield from _try(axis, best, best.with_(axis.choices[place]), tried)
        if moved == best:
            break
        best = moved
    return best


def _try(axis: Axis, best: Setting, challenger: Setting, tried: set[Setting]) -> Search:
    """A setting that lost once is not tried again: what beat it then has been beaten by `best`, if it is not `best`."""
    if challenger.effective() in tried:
        return best
    tried.add(challenger.effective())
    won = yield Duel(best, challenger, axis.name)
    return challenger if won else best
