"""Places for associations: limits in all, by source and by address, over several processes."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import pytest

from dicom_nodes.places import SILENT_S, Limits, Place, Places


@pytest.fixture
def places() -> Iterator[Places]:
    made = Places(Limits(total=8, per_source=4, per_address=3))
    yield made
    made.close()


def take(places: Places, title: str, address: str = "10.0.0.1", listed: bool = True) -> Place:
    place = places.take(title, address, listed)
    assert isinstance(place, Place), place
    return place


def test_each_limit_has_its_reason(places: Places) -> None:
    for _ in range(4):
        take(places, "A")
    assert places.take("A", "10.0.0.9", True) == "too many associations of this source"
    for _ in range(3):
        take(places, "B")
    assert places.take("X", "10.0.0.9", False) != "too many associations"
    assert places.count() == 8
    assert places.take("C", "10.0.0.9", True) == "too many associations"


def test_strangers_leave_places_for_listed_sources(places: Places) -> None:
    for number in range(6):
        take(places, f"X{number}", f"10.0.1.{number}", listed=False)
    assert places.take("Y", "10.0.2.1", False) == "too many associations of unlisted sources"
    take(places, "A")
    take(places, "A")


def test_an_address_of_strangers_has_a_share(places: Places) -> None:
    for number in range(3):
        take(places, f"X{number}", listed=False)
    assert places.take("Y", "10.0.0.1", False) == "too many associations of this address"


def test_a_borrowed_title_takes_no_place_of_its_owner(places: Places) -> None:
    for number in range(6):
        places.take("PACS", f"10.9.0.{number}", False)
    for _ in range(2):
        take(places, "PACS")


def test_a_place_that_is_left_is_free(places: Places) -> None:
    held = [take(places, "A") for _ in range(4)]
    held[2].leave()
    take(places, "A")
    assert not held[2].is_mine()


def test_only_the_silent_who_brought_nothing_give_way(places: Places) -> None:
    held = [take(places, "A") for _ in range(4)]
    time.sleep(SILENT_S + 0.1)
    held[0].heard(brought=True)
    held[1].heard()
    time.sleep(SILENT_S + 0.1)
    held[1].heard()
    newcomer = take(places, "A")
    assert [one.is_mine() for one in (*held, newcomer)] == [True, True, False, True, True]


def test_processes_share_the_table_and_the_dead_leave_it(places: Places) -> None:
    child = os.fork()
    if child == 0:
        for _ in range(4):
            places.take("A", "10.0.0.1", True)
        os._exit(0)
    os.waitpid(child, 0)
    assert places.count() == 4
    assert places.take("A", "10.0.0.1", True) == "too many associations of this source"
    places.forget(child)
    assert places.count() == 0
