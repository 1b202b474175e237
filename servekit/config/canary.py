"""Section `canary` of a model: how much of the unlabelled traffic its canary gets, and what decides about it.

The words are Flagger's: interval, threshold, step weight, max weight, analysis, promotion, rollback.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import Field

from servekit.config.section import Either, Finding, Section

_INTERVAL = re.compile(r"[1-9][0-9]*(s|m|h)")
_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")  # RFC 9110, token
_SECONDS = {"s": 1, "m": 60, "h": 3600}
_PLACEHOLDER = re.compile(r"{{(.*?)}}")
PLACEHOLDERS = ("model", "interval", "stable", "canary")
"""What `queries` may hold in double braces."""

Percent = Annotated[int, Field(ge=0, le=100)]
Step = Annotated[int, Field(ge=1, le=100)]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _number_or_off(low: float, high: float) -> Either:
    return Either(
        f"off or a number from {low:g} to {high:g}",
        lambda value: value == "off" or (_is_number(value) and low <= value <= high),
        {"anyOf": [{"const": "off"}, {"type": "number", "minimum": low, "maximum": high}]},
    )


Interval = Annotated[
    str,
    Either(
        "a duration such as 30s, 5m or 1h",
        lambda value: isinstance(value, str) and _INTERVAL.fullmatch(value) is not None,
        {"type": "string", "pattern": f"^{_INTERVAL.pattern}$"},
    ),
]
SuccessRate = Annotated[int | float | str, _number_or_off(0, 100)]
Ratio = Annotated[int | float | str, _number_or_off(1, 100)]
Share = Annotated[int | float | str, _number_or_off(0, 1)]


def seconds(interval: str) -> float:
    """`30s`, `5m`, `1h` in seconds."""
    return float(int(interval[:-1]) * _SECONDS[interval[-1]])


class Agreement(Section):
    """The same samples asked of both labels; answers compared by output kind."""

    minimum: Share = 0.8
    """Least share of the samples on which stable and canary agree; off: not compared."""

    samples: str | None = None
    """What is sent to both: a folder of images and .json files, or one .json file, of REST bodies; relative to the
    bundle. None: the version's warm-up records, and for a model that takes images the photographs of export/samples."""

    count: Annotated[int, Field(ge=1, le=10_000)] = 20
    """At most so many samples at each check, taken in turn."""

    output: str | None = None
    """The output that is compared; none: found by kind (labels or probabilities, masks, images, other numbers)."""

    top: Annotated[int, Field(ge=1, le=1000)] = 5
    """Classes: answers agree when the best class of each is among the best so many of the other; 1: top-1 is the same,
    as it has to be in any case where there are few classes."""

    probability_shift: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Classes: and when the probability of stable's best class differs by no more than this."""

    faults: bool = True
    """Image classifiers: fail when canary's answers fit better to pictures with red and blue exchanged, another range
    of values, no crop, ..., than to the pictures themselves."""

    mask_iou: Annotated[float, Field(ge=0, le=1)] = 0.8
    """Masks: answers agree from this mean intersection over union on."""

    image_psnr: Annotated[float, Field(ge=0, le=100)] = 25.0
    """Images: answers agree from this peak signal-to-noise ratio (dB) on."""

    relative_error: Annotated[float, Field(ge=0, le=10)] = 0.05
    """Other numbers: answers agree up to this relative difference (L2)."""


class Query(Section):
    """A PromQL query of the user's own: one number, held against `minimum` and `maximum`."""

    query: Annotated[str, Field(min_length=1)]
    """PromQL for a scalar, or a vector of one element; nothing or NaN is "no data". Filled in: `{{model}}`,
    `{{interval}}`, and the versions behind the labels, `{{stable}}` and `{{canary}}`."""

    minimum: float | None = None
    """The check fails below it."""

    maximum: float | None = None
    """The check fails above it."""

    def findings(self) -> Iterator[Finding]:
        for name in _PLACEHOLDER.findall(self.query):
            if name not in PLACEHOLDERS:
                known = ", ".join("{{" + one + "}}" for one in PLACEHOLDERS)
                yield Finding(("query",), f"{{{{{name}}}}} is none of {known}")
        if self.minimum is None and self.maximum is None:
            yield Finding((), "has neither minimum nor maximum", "give the query a bound: maximum: 0.5")


class Gate(Section):
    """A webhook (POST of JSON) or a command (JSON on stdin) that has to agree: 2xx or exit status 0. What they are
    told: docs/analysis.md."""

    url: str | None = None
    """http or https address; answers other than 2xx fail the check."""

    command: Annotated[tuple[str, ...] | None, Field(strict=False)] = None
    """Program and arguments, run in the bundle's folder; an exit status other than 0 fails the check."""

    timeout: Interval = "10s"
    """Longer is a failed check."""

    def findings(self) -> Iterator[Finding]:
        if (self.url is None) == (self.command is None):
            yield Finding((), "should have either url or command")
        if self.command == ():
            yield Finding(("command",), "should be a program and its arguments", "command: [my-check, --strict]")
        if self.url is not None and not re.match(r"https?://[^/\s]+", self.url):
            yield Finding(("url",), "should begin with http:// or https://")


class Analysis(Section):
    """What is measured at each interval, and what follows from it."""

    interval: Interval = "30s"
    """Time between checks; each looks at what happened since the one before."""

    threshold: Annotated[int, Field(ge=1, le=1000)] = 3
    """Failed checks before the canary is rolled back."""

    step_weight: Step = 10
    """Percent that each passed check adds to the weight."""

    max_weight: Step = 50
    """A check that passes at this weight promotes the canary."""

    min_requests: Annotated[int, Field(ge=0, le=10**9)] = 20
    """Requests of the canary in an interval from which its rates count; fewer are "no data", which waits."""

    success_rate: SuccessRate = 99
    """Least percent of the canary's requests that succeed; off: not checked."""

    p99_ratio: Ratio = 1.5
    """Highest p99 latency of the canary divided by that of stable; off: not checked."""

    agreement: Agreement = Agreement()
    """Whether the canary's answers are like those of stable."""

    queries: dict[str, Query] = Field(default_factory=dict)
    """PromQL of one's own, by name."""

    gates: dict[str, Gate] = Field(default_factory=dict)
    """Webhooks and commands, by name."""

    def findings(self) -> Iterator[Finding]:
        for name, query in self.queries.items():
            yield from (finding.under("queries", name) for finding in query.findings())
        for name, gate in self.gates.items():
            yield from (finding.under("gates", name) for finding in gate.findings())


class Canary(Section):
    """Only with the gateway: it labels the requests that name neither version nor label."""

    weight: Percent = 0
    """Percent of the unlabelled requests that go to label canary; the others go to stable."""

    sticky: str | None = None
    """Request header (such as x-user-id): equal values always get the same label at a given weight."""

    mirror: Percent = 0
    """Percent of the requests that stable answers which are copied to the canary; its answers are thrown away."""

    auto: bool = False
    """The analysis moves the weight, promotes and rolls back."""

    paused: bool = False
    """The weight stays where it is."""

    analysis: Analysis = Analysis()
    """What decides, with auto."""

    def findings(self) -> Iterator[Finding]:
        if self.sticky is not None and not _HEADER.fullmatch(self.sticky):
            yield Finding(("sticky",), f"should be the name of a request header, is {self.sticky!r}")
        yield from (finding.under("analysis") for finding in self.analysis.findings())
