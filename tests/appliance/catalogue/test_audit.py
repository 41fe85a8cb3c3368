"""The chain over events: one changed, removed or inserted row is found and named; retention keeps it whole."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import Connection, delete, insert, select, update

from appliance.catalogue import Catalogue, audit, events
from appliance.catalogue.audit import audit_link
from appliance.catalogue.connection import now
from appliance.catalogue.tables import event


def filled(catalogue: Catalogue, count: int = 6) -> None:
    with catalogue.write() as connection:
        for number in range(count):
            events.record(connection, "job_queued", study="1.2", job=str(number), before=0.1 * number)
        assert audit.seal(connection) == count


def spoil(connection: Connection, how: str) -> None:
    """Do one thing to the third event that only somebody with the database in hand can do."""
    third = connection.execute(select(audit_link).where(audit_link.c.number == 3)).one()
    at = event.c.seq == third.event_seq
    if how == "detail":
        connection.execute(update(event).where(at).values(detail={"before": 0.3}))
    elif how == "time":
        connection.execute(update(event).where(at).values(at=now()))
    elif how == "event gone":
        connection.execute(delete(event).where(at))
    elif how == "link gone":
        connection.execute(delete(audit_link).where(audit_link.c.number == 3))
    elif how == "link":
        connection.execute(update(audit_link).where(audit_link.c.number == 3).values(digest=bytes(32)))


def test_a_chain_that_nobody_touched_is_intact_and_seals_each_event_once(catalogue: Catalogue) -> None:
    filled(catalogue)
    with catalogue.write() as connection:
        assert audit.seal(connection) == 0
        events.record(connection, "login", who="marie")
        assert audit.verify(connection).unsealed == 1
        assert audit.seal(connection) == 1
        found = audit.verify(connection)
    assert (found.links, found.unsealed, found.flaws) == (7, 0, ())


@pytest.mark.parametrize(
    ("how", "numbers", "words"),
    [
        ("detail", [3], "not what was sealed"),
        ("time", [3], "not what was sealed"),
        ("event gone", [3], "its event is gone"),
        ("link gone", [4], "links 3 to 3 are gone"),
        ("link", [3, 4], "not what was sealed"),
    ],
)
def test_one_spoilt_row_is_found_and_named(catalogue: Catalogue, how: str, numbers: list[int], words: str) -> None:
    filled(catalogue)
    with catalogue.write() as connection:
        spoil(connection, how)
        found = audit.verify(connection)
    assert [one.number for one in found.flaws] == numbers
    assert words in found.flaws[0].text


def test_an_event_that_was_committed_late_is_sealed_behind_the_others(catalogue: Catalogue) -> None:
    filled(catalogue)
    with catalogue.write() as connection:
        connection.execute(delete(audit_link))
        rows = connection.execute(select(event).order_by(event.c.seq)).mappings().all()
        connection.execute(delete(event).where(event.c.seq == rows[1]["seq"]))
        assert audit.seal(connection) == 5
        connection.execute(insert(event).values(**rows[1]))
        assert audit.seal(connection) == 1
        assert audit.verify(connection).flaws == ()
        assert audit.head(connection)[0] == 6


def test_a_chain_that_was_made_anew_lacks_the_head_that_was_noted(catalogue: Catalogue) -> None:
    filled(catalogue)
    with catalogue.write() as connection:
        noted = audit.verify(connection).head
        assert audit.verify(connection, noted).flaws == ()
        spoil(connection, "detail")
        connection.execute(delete(audit_link))
        audit.seal(connection)
        assert audit.verify(connection).flaws == ()
        assert "made anew" in audit.verify(connection, noted).flaws[0].text


def test_retention_removes_from_the_beginning_and_says_so_in_the_chain(catalogue: Catalogue) -> None:
    filled(catalogue)
    with catalogue.write() as connection:
        old = select(audit_link.c.event_seq).where(audit_link.c.number <= 4)
        connection.execute(update(event).where(event.c.seq.in_(old)).values(at=now() - timedelta(days=4000)))
        connection.execute(delete(audit_link))
        audit.seal(connection)
        assert audit.remove(connection, now() - timedelta(days=3652)) == 4
        audit.seal(connection)
        assert audit.remove(connection, now() - timedelta(days=3652)) == 0
        found = audit.verify(connection)
        assert found.flaws == ()
        assert found.links == 4  # the last that was removed, two that stay, the removal itself
        connection.execute(delete(audit_link).where(audit_link.c.number == 4))
        connection.execute(delete(event).where(event.c.seq == 5))
        assert "no removal was recorded" in audit.verify(connection).flaws[0].text


def test_all_of_a_short_chain_may_be_removed(catalogue: Catalogue) -> None:
    filled(catalogue, 2)
    with catalogue.write() as connection:
        assert audit.remove(connection, now() + timedelta(days=1)) == 2
        audit.seal(connection)
        assert audit.verify(connection).flaws == ()
