"""The whole of a tuning: pace, search, confirmation, then more and less load on the winner and on what is there now."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from servekit.errors import EngineError
from servekit.tune.arena import Arena, rounds
from servekit.tune.figures import PAIRS, Figures, pair_ratios, together, verdict
from servekit.tune.journal import Journal
from servekit.tune.search import Duel, search
from servekit.tune.setting import Setting, shown, unbatched
from servekit.tune.space import Axis

CONFIRMING_PAIRS = 5
SWEEP_ROUNDS = 2
WORTH_IT = 1.03
"""A winner that is less better than that, confirmed, is not worth another configuration."""
ANSWERS_A_ROUND = 60
SHORTEST_ROUND_S = 1.5
ROUNDS_IN_A_BUDGET = 200
"""A budget that is too short for so many rounds gets shorter ones, and less certain figures."""
LEAST_SEARCH = 0.4
"""Share of the budget that the search has in any case."""

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Goal:
    """`clients` of a closed loop; `budget_s` for everything, runs that were interrupted included."""

    clients: int
    slo_p99_ms: float | None
    budget_s: float


@dataclass(frozen=True, slots=True)
class Fought:
    duel: Duel
    won: bool
    ratio: float | None
    challenger: Figures | None
    champion: Figures | None
    failed: str | None = None


@dataclass(frozen=True, slots=True)
class Level:
    name: str
    clients: int
    figures: Figures


@dataclass(frozen=True, slots=True)
class Result:
    """`ratios`: of the winner, pair by pair, to what is there now and to a server without any of it."""

    current: Setting
    winner: Setting
    figures: dict[str, Figures]
    ratios: dict[str, list[float]]
    fought: tuple[Fought, ...]
    levels: tuple[Level, ...]
    complete: bool
    """False: the budget ended before the search did."""

    def ratio(self, to: str) -> float:
        return round(statistics.median(self.ratios[to]), 3)

    @property
    def changes(self) -> dict[str, Any]:
        """What to write; empty where what is there is as good."""
        if self.winner == self.current or self.ratio("current") < WORTH_IT:
            return {}
        return self.winner.differences(self.current)

    @property
    def stays(self) -> str:
        """Which of the two is in serving.yaml afterwards."""
        return "winner" if self.changes else "current"

    def clients_within(self, slo_p99_ms: float) -> int:
        """The largest load tried whose p99 keeps the objective with what stays; 0: not even one client's does."""
        kept = [one for one in self.levels if one.name == self.stays and one.figures.share(slo_p99_ms) == 1.0]
        return max((one.clients for one in kept), default=0)


@dataclass(slots=True)
class Tuner:
    arena: Arena
    journal: Journal
    goal: Goal
    tell: Tell
    round_s: float = SHORTEST_ROUND_S
    warmup_s: float = 0.5

    def run(self, start: Setting, axes: Sequence[Axis]) -> Result:
        """Raises EngineError where the server does not start, or does not answer, with what is there now."""
        self._find_pace(start)
        fought, winner, complete = self._search(start, axes)
        sides = {"current": start, "unbatched": unbatched(start), "winner": winner}
        confirmed = self._confirm(sides)
        ratios = {
            to: pair_ratios(confirmed["winner"], confirmed[to], self.goal.slo_p99_ms) for to in ("current", "unbatched")
        }
        figures = {name: together(parts) for name, parts in confirmed.items()}
        levels = [Level(name, self.goal.clients, figures[name]) for name in ("current", "winner")]
        levels = sorted([*levels, *self._sweep({"current": start, "winner": winner})], key=lambda one: one.clients)
        return Result(start, winner, figures, ratios, tuple(fought), tuple(levels), complete)

    def _find_pace(self, start: Setting) -> None:
        """Rounds long enough for their figures to mean something, whether an answer takes 1 ms or 2 s."""
        shortest = min(SHORTEST_ROUND_S, self.goal.budget_s / ROUNDS_IN_A_BUDGET)

        def find() -> Any:
            return self.arena.measure(start, self.goal.clients, 2 * shortest, shortest).document()

        self.tell(f"what is there now, {self.goal.clients} clients")
        figures = Figures(**self.journal.ask("pace", find))
        if not figures.share(None):
            raise EngineError(f"{figures.error_rate:.0%} of the requests fail already with what is there now",
                              hint="servekit doctor")  # fmt: skip
        answers = max(ANSWERS_A_ROUND, 4 * self.goal.clients)
        self.round_s = min(max(answers / figures.per_second, shortest), 10.0)
        self.warmup_s = min(max(2 * self.goal.clients / figures.per_second, shortest / 4), 5.0)

    def _search(self, start: Setting, axes: Sequence[Axis]) -> tuple[list[Fought], Setting, bool]:
        fought: list[Fought] = []
        searching, best = search(start, axes), start
        try:
            duel = next(searching)
            while True:
                question = _question("duel", duel.champion, duel.challenger)
                if not self.journal.knows(question) and self.journal.spent_s > self._search_budget_s():
                    return fought, best, False
                one = _fought(duel, self.journal.ask(question, lambda duel=duel: self._fight(duel)))  # type: ignore[misc]
                fought.append(one)
                best = duel.challenger if one.won else best
                self.tell(_line(one, len(fought)))
                duel = searching.send(one.won)
        except StopIteration:
            return fought, best, True

    def _search_budget_s(self) -> float:
        """What the confirmation and the sweep leave, and the duel that is about to begin."""
        round_s = self.round_s + self.warmup_s
        count = 3 * CONFIRMING_PAIRS + 2 * SWEEP_ROUNDS * len(_other_levels(self.goal.clients)) + 2 * PAIRS
        later = count * round_s + 4 * self.arena.start_s
        return max(self.goal.budget_s - later, LEAST_SEARCH * self.goal.budget_s)

    def _fight(self, duel: Duel) -> dict[str, Any]:
        ours: list[Figures] = []
        theirs: list[Figures] = []
        try:
            won: bool | None = None
            while won is None:
                order = [(duel.challenger, ours), (duel.champion, theirs)]
                for setting, found in order if len(ours) % 2 else reversed(order):
                    found.append(self.arena.measure(setting, self.goal.clients, self.round_s, self.warmup_s))
                won = verdict(ratios := pair_ratios(ours, theirs, self.goal.slo_p99_ms))
        except EngineError as error:
            return {"won": False, "failed": str(error).splitlines()[0]}
        return {
            "won": won,
            "ratio": round(statistics.median(ratios), 3),
            "challenger": together(ours).document(),
            "champion": together(theirs).document(),
        }

    def _confirm(self, sides: dict[str, Setting]) -> dict[str, list[Figures]]:
        distinct = list(dict.fromkeys(sides.values()))

        def find() -> list[list[dict[str, Any]]]:
            self.tell(f"confirming: {CONFIRMING_PAIRS} rounds of {', '.join(sides)} in turn")
            found = rounds(self.arena, distinct, self.goal.clients, CONFIRMING_PAIRS, self.round_s, self.warmup_s)
            return [[one.document() for one in found[setting]] for setting in distinct]

        answers = self.journal.ask(_question("confirm", *distinct), find)
        by_setting = {
            setting: [Figures(**one) for one in parts] for setting, parts in zip(distinct, answers, strict=True)
        }
        return {name: by_setting[setting] for name, setting in sides.items()}

    def _sweep(self, sides: dict[str, Setting]) -> Iterator[Level]:
        distinct = list(dict.fromkeys(sides.values()))
        for clients in _other_levels(self.goal.clients):
            question = _question(f"sweep {clients}", *distinct)
            if not self.journal.knows(question) and self.journal.spent_s > self.goal.budget_s:
                break

            def find(clients: int = clients) -> list[dict[str, Any]]:
                self.tell(f"frontier: {clients} client{'s' if clients > 1 else ''}")
                found = rounds(self.arena, distinct, clients, SWEEP_ROUNDS, self.round_s, self.warmup_s)
                return [together(found[setting]).document() for setting in distinct]

            answers = self.journal.ask(question, find)
            for name, setting in sides.items():
                yield Level(name, clients, Figures(**answers[distinct.index(setting)]))


def _other_levels(clients: int) -> list[int]:
    """1, 32, 4 and 8 for 16: where latency is least, beyond what was asked for, and between."""
    wanted = dict.fromkeys([1, 2 * clients, math.ceil(clients / 4), math.ceil(clients / 2)])
    return [level for level in wanted if level != clients]


def _question(kind: str, *settings: Setting) -> str:
    return " ".join([kind, *(json.dumps(setting.values) for setting in settings)])


def _fought(duel: Duel, answer: dict[str, Any]) -> Fought:
    sides = {name: Figures(**answer[name]) if name in answer else None for name in ("challenger", "champion")}
    return Fought(duel, answer["won"], answer.get("ratio"), failed=answer.get("failed"), **sides)


def _line(one: Fought, number: int) -> str:
    what = f"{number}. {one.duel.axis}: {shown(one.duel.challenger.differences(one.duel.champion))}"
    if one.failed or one.challenger is None:
        return f"{what}: does not run ({one.failed})"
    p99 = "" if one.challenger.p99_ms is None else f", p99 {one.challenger.p99_ms:.0f} ms"
    better = "better, kept" if one.won else "no better"
    return f"{what}: {one.ratio:.2f} of the best so far ({one.challenger.per_second:.1f}/s{p99}): {better}"
