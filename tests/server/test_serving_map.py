from __future__ import annotations

import threading
import time

import pytest

from servekit.errors import Code, StatusError
from servekit.server.servable import ServableId
from servekit.server.serving_map import ServingMap, failed_on
from tests.server.text_loader import TextServable

A1, A2, B1 = ServableId("a", 1), ServableId("a", 2), ServableId("b", 1)


def test_the_latest_is_the_highest_number() -> None:
    serving = ServingMap()
    serving.replace({A2: TextServable("two"), A1: TextServable("one"), B1: TextServable("b")})
    assert serving.acquire("a", None).id == A2
    assert serving.acquire("a", 1).id == A1
    assert serving.available() == [A1, A2, B1]


def test_what_is_not_there_is_not_found() -> None:
    serving = ServingMap()
    with pytest.raises(StatusError, match=r"NOT_FOUND: Servable not found for request: Latest\(a\)"):
        serving.acquire("a", None)
    with pytest.raises(StatusError, match=r"Specific\(a, -1\)"):
        serving.acquire("a", -1)


def test_replacing_waits_for_every_handle_of_the_old_map_and_new_requests_do_not_wait() -> None:
    serving = ServingMap()
    serving.replace({A1: TextServable("one")})
    first, second = serving.acquire("a", 1), serving.acquire("a", 1)
    replacing = threading.Thread(target=serving.replace, args=({A2: TextServable("two")},))
    replacing.start()
    first.release()
    first.release()  # does not count twice
    time.sleep(0.1)
    assert replacing.is_alive()
    with serving.acquire("a", None) as newer:
        assert newer.id == A2
    second.release()
    replacing.join(20)
    assert not replacing.is_alive()


def test_an_error_tells_on_which_version_it_came() -> None:
    serving = ServingMap()
    serving.replace({A1: TextServable("one"), A2: TextServable("two")})
    with pytest.raises(StatusError) as caught, serving.acquire("a", 1):
        raise StatusError(Code.INVALID_ARGUMENT, "wrong shape")
    assert failed_on(caught.value) == A1
    with pytest.raises(StatusError) as caught:
        serving.acquire("a", 3)
    assert failed_on(caught.value) is None


def test_closing_ends_the_wait() -> None:
    serving = ServingMap()
    serving.replace({A1: TextServable("one")})
    serving.acquire("a", 1)
    replacing = threading.Thread(target=serving.replace, args=({},))
    replacing.start()
    serving.close()
    replacing.join(20)
    assert not replacing.is_alive()
