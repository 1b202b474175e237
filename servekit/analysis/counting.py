"""How many requests each label has answered so far: from the gateway's page, or from a Prometheus that reads it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from servekit.analysis.looks import CANARY, STABLE
from servekit.analysis.promql import Prometheus, PrometheusError, filled
from servekit.analysis.tally import Tally
from servekit.errors import Code, ServekitError
from servekit.gateway import counters
from servekit.gateway.answers import metrics_text

TIMEOUT_S = 5.0

# Whose fault a status says it is: as servekit's alerts have it (docs/monitoring.md). Clients that went away before an
# answer count with the client's mistakes: more of them than with stable speak against the canary.
_CLIENT_CODES = {
    Code.CANCELLED,
    Code.INVALID_ARGUMENT,
    Code.NOT_FOUND,
    Code.OUT_OF_RANGE,
    Code.UNIMPLEMENTED,
    Code.PERMISSION_DENIED,
    Code.UNAUTHENTICATED,
}
CLIENT_ERRORS = frozenset(code.name for code in _CLIENT_CODES) | {
    *("", "0", "400", "401", "403", "404", "405", "406", "411", "413", "414", "415", "417", "431", "499", "501")
}


class NoCounters(ServekitError):
    """Nobody says what the labels answered."""


def from_gateway(url: str, model: str, *, copies: bool) -> dict[str, Tally]:
    """`copies`: mirrored requests count as the canary's. Raises NoCounters."""
    text = metrics_text(url, TIMEOUT_S)
    if text is None:
        raise NoCounters(f"the gateway does not answer at {url}")
    try:
        return of_page(counters.parse(text), model, copies=copies)
    except (ValueError, KeyError) as error:
        raise NoCounters(f"{url} has no metrics page of the gateway: {error}") from None


def of_page(counts: Mapping[counters.Key, counters.Counts], model: str, *, copies: bool) -> dict[str, Tally]:
    found = {}
    for label in (STABLE, CANARY):
        one = counts.get((model, label), counters.Counts())
        parts = [one.rest, one.grpc, *([one.copied] if copies and label == CANARY else [])]
        found[label] = sum((tally(part.requests, part.buckets) for part in parts), Tally())
    return found


def tally(requests: Mapping[str, float], buckets: Mapping[float, float]) -> Tally:
    """From counts by status, and cumulative ones by upper bound in ms."""
    failed = {code: count for code, count in requests.items() if not (code == "OK" or code.startswith("2"))}
    client = sum(count for code, count in failed.items() if code in CLIENT_ERRORS)
    return Tally(sum(requests.values()), sum(failed.values()) - client, client, tuple(sorted(buckets.items())))


# Counters as they are: increases are taken between two readings, as with the gateway's own page.
_SELECTOR = '{model="{{model}}",label=~"stable|canary",method=~"{{methods}}",traffic=~"{{traffic}}"}'
_REQUESTS = f"sum by (label, protocol, code, grpc_status) ({counters.REQUESTS}{_SELECTOR})"
_LATENCY = f"sum by (label, le) ({counters.LATENCY}_bucket{_SELECTOR})"


def from_prometheus(prometheus: Prometheus, model: str, *, copies: bool) -> dict[str, Tally]:
    """As old as its last scrape. Raises NoCounters."""
    values = {
        "model": model,
        "methods": "|".join(sorted(counters.INFERENCE)),
        "traffic": f"{counters.CLIENT}|{counters.COPY}" if copies else counters.CLIENT,
    }
    try:
        # A label without a request has no series, and counts 0; a gateway that is not scraped has not counted 0.
        if not prometheus.query(f"group({counters.REQUESTS})")["result"]:
            raise NoCounters(f"Prometheus has no series {counters.REQUESTS}: it does not read the gateway")
        requests, latency = (prometheus.query(filled(query, values))["result"] for query in (_REQUESTS, _LATENCY))
        return _of_series(requests, latency)
    except PrometheusError as error:
        raise NoCounters(error.message) from None
    except (KeyError, IndexError, TypeError, ValueError):
        raise NoCounters("Prometheus answers with other series than the gateway's") from None


def _of_series(requests: Iterable[Any], latency: Iterable[Any]) -> dict[str, Tally]:
    codes: dict[str, dict[str, float]] = {STABLE: {}, CANARY: {}}
    buckets: dict[str, dict[float, float]] = {STABLE: {}, CANARY: {}}
    for series in requests:
        metric = series["metric"]
        code = metric.get("grpc_status" if metric["protocol"] == "grpc" else "code", "")
        known = codes[metric["label"]]
        known[code] = known.get(code, 0.0) + float(series["value"][1])
    for series in latency:
        bound = float(series["metric"]["le"]) / 1000
        buckets[series["metric"]["label"]][bound] = float(series["value"][1])
    return {label: tally(codes[label], buckets[label]) for label in (STABLE, CANARY)}
