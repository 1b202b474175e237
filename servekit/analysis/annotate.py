"""Marks what a roll-out did on Grafana's dashboards, through its HTTP API. Never in the way of the roll-out itself.

Grafana's documentation: HTTP API, Annotations, `POST /api/annotations`.
"""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx

from servekit.analysis import tls

TIMEOUT_S = 3.0
PASSWORD_FILE = Path("/run/grafana-password/password")
"""Where Compose mounts the password that the stack made for itself."""

_NONE = "no annotations are written"
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
            verify = tls.context(self.url)
            with httpx.Client(timeout=TIMEOUT_S, trust_env=False, auth=login, verify=verify) as http:
                answer = http.post(f"{self.url.rstrip('/')}/api/annotations", json=body, headers=headers)
            problem = "" if answer.is_success else f"answers {answer.status_code}: {_said(answer)}"
        except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as error:
            problem = f"does not answer: {error or type(error).__name__}"
        if problem:
            _log.warning("no annotation in Grafana at %s, which %s", self.url, problem)
        return problem


def from_environment(environment: Mapping[str, str] = os.environ) -> Grafana | None:
    """By SERVEKIT_GRAFANA_URL, with SERVEKIT_GRAFANA_TOKEN, or GRAFANA_ADMIN_USER (admin) and a password:
    SERVEKIT_GRAFANA_PASSWORD, or the first line of SERVEKIT_GRAFANA_PASSWORD_FILE (Compose's). None without URL, and
    for half a setting, which is logged.
    """
    url, token = environment.get("SERVEKIT_GRAFANA_URL", ""), environment.get("SERVEKIT_GRAFANA_TOKEN", "")
    if not url:
        if token:
            _log.warning(
                "SERVEKIT_GRAFANA_TOKEN without SERVEKIT_GRAFANA_URL (http://grafana:3000 in Compose): %s", _NONE
            )
        return None
    if not re.match(r"https?://[^/\s]", url):
        _log.warning("SERVEKIT_GRAFANA_URL should begin with http:// or https://, is %s: %s", url, _NONE)
        return None
    if token:
        return Grafana(url, token=token)
    password, problem = environment.get("SERVEKIT_GRAFANA_PASSWORD", ""), ""
    if not password:
        file = Path(environment.get("SERVEKIT_GRAFANA_PASSWORD_FILE") or PASSWORD_FILE)
        try:
            password = file.read_text(encoding="utf-8").strip()
        except (OSError, ValueError) as error:
            problem = f" ({error})" if environment.get("SERVEKIT_GRAFANA_PASSWORD_FILE") else ""
    if not password:
        _log.warning("SERVEKIT_GRAFANA_URL without SERVEKIT_GRAFANA_TOKEN or a password%s: %s", problem, _NONE)
        return None
    return Grafana(url, user=environment.get("GRAFANA_ADMIN_USER") or "admin", password=password)


def _said(answer: httpx.Response) -> str:
    try:
        return str(answer.json()["message"])
    except (ValueError, KeyError, TypeError):
        return answer.reason_phrase
