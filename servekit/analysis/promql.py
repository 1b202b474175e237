"""One number from Prometheus' HTTP API, or why there is none."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import httpx

from servekit.analysis import tls
from servekit.analysis.verdict import NoData
from servekit.errors import ServekitError

TIMEOUT_S = 10.0


class PrometheusError(ServekitError):
    """Prometheus was not reached, or its answer is no answer to a query."""


class Prometheus:
    """At `url`, such as http://127.0.0.1:9090, with a path where it is served under one; user:password@ works."""

    def __init__(self, url: str, timeout_s: float = TIMEOUT_S) -> None:
        self._url = url.rstrip("/")
        self._timeout_s = timeout_s

    def query(self, expression: str) -> Any:
        """`data` of the answer: `resultType` and `result`. Raises PrometheusError."""
        try:
            url = f"{self._url}/api/v1/query"
            answer = httpx.post(
                url, data={"query": expression}, timeout=self._timeout_s, trust_env=False, verify=tls.context(url)
            )
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise PrometheusError(f"Prometheus at {_shown(self._url)} does not answer: {_words(error)}") from None
        try:
            document = answer.json()
            if document["status"] == "success":
                return document["data"]
            said = document["error"]
        except (ValueError, KeyError, TypeError):
            raise PrometheusError(
                f"{_shown(self._url)} answers {answer.status_code}, but not like Prometheus"
            ) from None
        raise PrometheusError(f"Prometheus refuses the query: {said}")

    def number(self, expression: str) -> float | NoData:
        """A scalar, or the value of a vector's only element; anything else is no data, as NaN is."""
        try:
            return number(self.query(expression))
        except PrometheusError as error:
            return NoData(error.message)


def number(data: Any) -> float | NoData:
    """From the `data` of an answer."""
    try:
        kind, result = data["resultType"], data["result"]
        if kind == "scalar":
            value = float(result[1])
        elif kind == "vector" and len(result) == 1:
            value = float(result[0]["value"][1])
        elif kind == "vector":
            several = f"{len(result)} series; one is needed: sum(...), or a selector of one"
            return NoData(several if result else "no series")
        else:
            return NoData(f"the query gives a {kind}; a number is needed")
    except (KeyError, IndexError, TypeError, ValueError):
        return NoData("an answer that is none of Prometheus'")
    return NoData("NaN") if math.isnan(value) else value


def filled(query: str, values: Mapping[str, object]) -> str:
    """`{{model}}` and the other placeholders replaced, quotes and backslashes escaped as in PromQL's strings."""
    for name, value in values.items():
        text = str(value).replace("\\", "\\\\").replace('"', '\\"').replace("'", "\\'")
        query = query.replace("{{" + name + "}}", text)
    return query


def _words(error: Exception) -> str:
    return "no answer in time" if isinstance(error, httpx.TimeoutException) else str(error) or type(error).__name__


def _shown(url: str) -> str:
    """Without a password."""
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}"
