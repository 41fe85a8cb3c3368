"""Cases are counted by package, scanner and source; what was withdrawn, expired or opted out counts no more."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from appliance.catalogue import Catalogue, training
from appliance.catalogue.connection import now
from appliance.catalogue.training import KeptCase

AT = now()
ONE = KeptCase(
    "1", "hippocampus", "1.1", "1.2", "", "patient-1", "Phantom Works", "import", "2.25.1", "", AT, AT, "h/1.npz", "d1",
    0,
)  # fmt: skip


def keep(catalogue: Catalogue, *cases: KeptCase) -> str:
    with catalogue.write() as connection:
        return training.keep(connection, cases, now())


def case(number: int, **change: object) -> KeptCase:
    values = {
        "id": str(number), "series_instance_uid": f"1.2.{number}", "patient": f"patient-{number}",
        "label_uid": f"2.25.{number}", "path": f"h/{number}.npz", "digest": f"d{number}",
    }  # fmt: skip
    return replace(ONE, **(values | change))  # type: ignore[arg-type]


def test_counts_tell_what_is_new_and_who_judges(catalogue: Catalogue) -> None:
    long_ago = AT - timedelta(days=9)
    for one in (
        case(1),
        case(2, kept_at=long_ago),
        case(3, held_back=1),
        case(4, scanner="Other", source="correction"),
    ):
        assert keep(catalogue, one) == ""
    assert keep(catalogue, case(5, patient="patient-1")) == ""
    with catalogue.read() as connection:
        other, mine = training.counts(connection, long_ago, {"hippocampus": AT - timedelta(days=1)})
        assert [one["cases"] for one in training.counts(connection, AT, {})] == [1, 3]
    assert (other["scanner"], other["source"], other["cases"]) == ("Other", "correction", 1)
    assert mine == {
        "package": "hippocampus", "scanner": "Phantom Works", "source": "import", "cases": 4, "patients": 3,
        "for_training": 3, "held_back": 1, "new": 2,
    }  # fmt: skip


def test_a_label_that_is_kept_is_known_and_all_pieces_of_an_older_one_go(catalogue: Catalogue) -> None:
    left, right = (
        case(n, series_instance_uid="1.9", label_uid="2.25.9", region=side) for n, side in ((1, "l"), (2, "r"))
    )
    assert keep(catalogue, left, right) == ""
    assert keep(catalogue, left, right) == training.KNOWN
    newer = case(3, series_instance_uid="1.9", labelled_at=AT + timedelta(1))
    assert keep(catalogue, newer) == ""
    assert keep(catalogue, left, right) == training.OLDER
    with catalogue.read() as connection:
        assert [one.id for one in training.live(connection, "hippocampus", AT)] == ["3"]
        assert training.live_paths(connection) == {"h/3.npz"}
        assert training.withdrawn_counts(connection) == {"hippocampus": {training.REPLACED: 2}}


def test_another_package_s_label_of_the_same_images_stays(catalogue: Catalogue) -> None:
    assert keep(catalogue, case(1, series_instance_uid="1.9")) == ""
    assert keep(catalogue, case(2, series_instance_uid="1.9", package="brain")) == ""
    with catalogue.read() as connection:
        assert len(training.live_paths(connection)) == 2


def test_who_opted_out_is_counted_once_and_may_come_back(catalogue: Catalogue) -> None:
    keep(catalogue, case(1))
    for _ in range(2):
        with catalogue.write() as connection:
            training.opt_patient_out(connection, "patient-1", "asked", now())
    assert keep(catalogue, case(1)) == training.OPTED_OUT
    with catalogue.write() as connection:
        assert training.opted_out_count(connection) == 1
        assert training.opt_patient_in(connection, "patient-1", "asked again")
        assert not training.opt_patient_in(connection, "patient-1", "asked again")
    assert keep(catalogue, case(1)) == ""
    with catalogue.read() as connection:
        assert len(training.live(connection, "hippocampus", AT)) == 1


def test_what_is_past_its_time_counts_no_more_before_it_is_swept(catalogue: Catalogue) -> None:
    keep(catalogue, case(1))
    with catalogue.read() as connection:
        assert training.live(connection, "hippocampus", AT + timedelta(1)) == []
    with catalogue.write() as connection:
        assert training.expire(connection, AT + timedelta(1), now()) == 1
        assert training.expire(connection, AT + timedelta(1), now()) == 0
