"""Marks what a roll-out did on Grafana's dashboards, through its HTTP API. Never in the way of the roll-out itself.

Grafana's documentation: HTTP API, Annotations, `POST /api/annotations`.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx

TIMEOUT_S = 3.0
PASSWORD_FILE = Path("/run/grafana-password/password")
"""Where Compose mounts the password that the stack made for itself."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Grafana:
    """`token` of a service account, or `user` and `password`."""

    url: str
    token: str = ""
    user: str = ""
    password: str = ""

    def annotate(
        self, model: str, event: str, text: str, *, at_s: float | None = None, more: Sequence[str] = ()
    ) -> str:
        """A mark at `at_s` (seconds since 1970, none: now) with tags servekit, the model, the event (such as promoted,
        rolled back) and `more`. Returns what went wrong, empty when it is there; logs it, raises nothing.
        """
        body = {
            "time": round(1000 * (time.time() if at_s is None else at_s)),
            "tags": list(dict.fromkeys(("servekit", model, event, *more))),
            "text": text,
        }
        headers = {"authorization": f"Bearer {self.token}"} if self.token else {}
        login = None if self.token else httpx.BasicAuth(self.user, self.password)
        try:
            with httpx.Client(timeout=TIMEOUT_S, trust_env=False, auth=login) as http:
                answer = http.post(f"{self.url.rstrip('/')}/api/annotations", json=body, headers=headers)
            problem = "" if answer.is_success else f"answers {answer.status_code}: {_said(answer)}"
        except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as error:
            problem = f"does not answer: {error or type(error).__name__}"
        if problem:
            _log.warning("no annotation in Grafana at %s, which %s", self.url, problem)
        return problem


def from_environment(environment: Mapping[str, str] = os.environ) -> Grafana | None:
    """By SERVEKIT_GRAFANA_URL, with SERVEKIT_GRAFANA_TOKEN, or GRAFANA_ADMIN_USER (admin) and a password:
    SERVEKIT_GRAFANA_PASSWORD, or the first line of SERVEKIT_GRAFANA_PASSWORD_FILE (Compose's). None without URL.
    """
    url = environment.get("SERVEKIT_GRAFANA_URL", "")
    if not url:
        return None
    if token := environment.get("SERVEKIT_GRAFANA_TOKEN", ""):
        return Grafana(url, token=token)
    password = environment.get("SERVEKIT_GRAFANA_PASSWORD", "")
    if not password:
        file = Path(environment.get("SERVEKIT_GRAFANA_PASSWORD_FILE") or PASSWORD_FILE)
        try:
            password = file.read_text(encoding="utf-8").strip()
        except (OSError, ValueError) as error:
            _log.warning("no password for Grafana: %s", error)
    return Grafana(url, user=environment.get("GRAFANA_ADMIN_USER") or "admin", password=password)


def _said(answer: httpx.Response) -> str:
    try:
        return str(answer.json()["message"])
    except (ValueError, KeyError, TypeError):
        return answer.reason_phrase
