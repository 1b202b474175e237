from __future__ import annotations

import pytest

from servekit.server.uri import path_and_rest


@pytest.mark.parametrize(
    ("target", "parts"),
    [
        ("/v1/models/m:predict", ("/v1/models/m:predict", "")),
        ("/a%20b?x=1?y#f?", ("/a%20b", "?x=1?y#f?")),
        ("http://user@host:99/v1/x", ("/v1/x", "")),
        ("FTP://[::1]/x", ("/x", "")),
        ("//host/x", ("/x", "")),
        ("http://host", ("", "")),
        ("*", ("*", "")),
        ("a:b", ("b", "")),
        ("v1/models/m:predict", ("v1/models/m:predict", "")),
        ("half?a:b", ("half", "?a:b")),
        ("http://[::1]:8501/x", ("/x", "")),
        ("http://[v1.a:b]/x", ("/x", "")),
        ("http:///x", ("/x", "")),
    ],
)
def test_scheme_and_host_do_not_matter(target: str, parts: tuple[str, str]) -> None:
    assert path_and_rest(target) == parts


@pytest.mark.parametrize(
    "target",
    [
        '/a"b',
        "/a<b",
        "/{a}",
        "/[a]",
        "/a|b",
        "/a\\b",
        "/\u00e9",
        "/a b",
        "/a%zz",
        "/a%",
        "/x##",
        '/x?"',
        "http://a:b/x",
        "half_plus_two:predict",
        "http://h:65536/x",
        "http://[::g]/x",
        "http://[::1%25]/x",
        "//a b/x",
    ],
)
def test_what_libevent_refuses(target: str) -> None:
    assert path_and_rest(target) is None


def test_a_megabyte_is_refused_at_once() -> None:
    assert path_and_rest("/" + "%41a" * 250_000 + '"') is None
