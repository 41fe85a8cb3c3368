"""What the catalogue tells completeness: counts, announcements, pauses of sources, places of instances."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest
from sqlalchemy import Connection

from appliance.catalogue import Catalogue, announcements, evidence, processes, receiving, studies
from appliance.catalogue.announcements import Availability, ProcedureStep
from appliance.catalogue.connection import now
from appliance.completeness import Announcements, FoundCount, Pauses, SeriesFact, StudyFacts
from appliance.gaps import gap_of
from tests.appliance.catalogue.rows import instance, receive

START = now()


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def facts(connection: Connection, study: str = "1") -> StudyFacts:
    return evidence.receiving_studies(connection, at(100))[study]


def test_what_came_is_counted_once_each_and_results_of_ours_not_at_all(catalogue: Catalogue) -> None:
    with catalogue.write() as connection:
        receive(connection, instance("1.1"))
        receive(connection, instance("1.2", series="1.8"))
        receiving.add_instance(connection, instance("1.1", path="ab/older.dcm"), 2, "replaced")
        receiving.add_instance(connection, instance("1.5", state="result"), 1, "result")
        receiving.add_instance(connection, instance("1.6", series="1.7", state="document"), 1, "document")
        receive(connection, instance("2.1", study="2"))
        assert facts(connection).held == 0, "nobody counts"
        assert facts(connection).series == []
        receive(connection, instance("1.3", study_expected=9, series_expected=9))
        found = facts(connection)
        assert found.held == evidence.held_of(connection, "1") == 4
        assert sorted(one.held for one in found.series) == [1, 2]
        evidence.record_found(connection, "2", 5, 1, at(1))
        assert facts(connection, "2").held == 1


def test_the_greatest_count_of_the_headers_is_kept_and_that_they_differ(catalogue: Catalogue) -> None:
    with catalogue.write() as connection:
        receive(connection, instance("1.1"))
        assert facts(connection).expected is None
        studies.grow(connection, [instance("1.2", study_expected=4), instance("1.3", study_expected=4)])
        assert (facts(connection).expected, facts(connection).expected_varies) == (4, False)
        studies.grow(connection, [instance("1.4", study_expected=3)])
        assert (facts(connection).expected, facts(connection).expected_varies) == (4, True)
        for count in (7, None, 5):
            studies.grow_series(connection, [instance("1.1", series_expected=count)])
        assert facts(connection).series == [SeriesFact(1, 7)]


def step(state: str, *instances: str, studies: tuple[str, ...] = (), uid: str = "9.1") -> ProcedureStep:
    return ProcedureStep(uid, studies, state, instances or None)


def test_a_completed_step_announces_and_one_in_progress_holds_back(catalogue: Catalogue) -> None:
    created = step("IN PROGRESS", studies=("1",))
    done = step("COMPLETED", "1.1", "1.2")
    with catalogue.write() as connection:
        receive(connection, instance("1.1"))
        announcements.apply_step(connection, created, at(0))
        assert facts(connection).announcements == Announcements(in_progress=1)
        for told in (done, done, created):  # again, and late: nothing changes
            announcements.apply_step(connection, told, at(1))
            assert facts(connection).announcements == Announcements(2, missing=1)
        receive(connection, instance("1.2"))
        assert facts(connection).announcements == Announcements(2)
        receive(connection, instance("1.3"))
        assert facts(connection).announcements == Announcements(2, unannounced=1)
        announcements.apply_step(connection, step("DISCONTINUED", "1.9", studies=("1",), uid="9.2"), at(2))
        assert facts(connection).announcements == Announcements(2, unannounced=1)


def test_a_step_that_is_known_by_its_end_first(catalogue: Catalogue) -> None:
    with catalogue.write() as connection:
        receive(connection, instance("1.1"))
        announcements.apply_step(connection, step("COMPLETED", "1.1"), at(1))
        assert facts(connection).announcements == Announcements()
        announcements.apply_step(connection, step("IN PROGRESS", studies=("1",)), at(0))
        assert facts(connection).announcements == Announcements(1)


def test_a_step_that_nobody_ends_is_discontinued_and_all_is_forgotten(catalogue: Catalogue) -> None:
    with catalogue.write() as connection:
        receive(connection, instance("1.1"))
        announcements.apply_step(connection, step("IN PROGRESS", studies=("1",)), at(0))
        announcements.apply_availability(connection, Availability("8.1", "1", ("1.1", "1.2"), ()), at(0))
        announcements.end_stale_steps(connection, at(0))
        assert facts(connection).announcements.in_progress == 1
        announcements.end_stale_steps(connection, at(1))
        assert facts(connection).announcements == Announcements(2, missing=1)
        announcements.forget(connection, at(1))
        assert facts(connection).announcements == Announcements()


def test_notifications_add_up_and_take_back(catalogue: Catalogue) -> None:
    with catalogue.write() as connection:
        receive(connection, instance("1.1"))
        for by, uids in (("8.1", ("1.1", "1.2")), ("8.2", ("1.2", "1.3")), ("8.1", ("1.1", "1.2"))):
            announcements.apply_availability(connection, Availability(by, "1", uids, ()), at(0))
        assert facts(connection).announcements == Announcements(3, missing=2)
        announcements.apply_availability(connection, Availability("8.3", "1", (), ("1.2", "1.3")), at(1))
        assert facts(connection).announcements == Announcements(1)


def test_the_pacs_was_ahead_when_it_gave_this_count_while_we_held_fewer(catalogue: Catalogue) -> None:
    with catalogue.write() as connection:
        receive(connection, instance("1.1"))
        for count, held, ahead in ((5, 3, True), (5, 5, True), (6, 6, False), (6, 6, False), (8, 7, True)):
            evidence.record_found(connection, "1", count, held, at(count))
            assert facts(connection).found == FoundCount(count, at(count), ahead)
        evidence.complete_study(connection, "1", "counted", facts(connection).last_received_at, at(9))
        evidence.record_found(connection, "1", 99, 1, at(9))
        receive(connection, instance("1.2"))
        assert facts(connection).found is None
        assert facts(connection).counted_before


class Sender:
    """Associations and images of one study, at given seconds."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._number = 0

    def opens(self, id: str, ae_title: str = "SCANNER", seconds: float = 0) -> None:
        receiving.open_association(self.connection, id, ae_title, "10.0.0.1", at(seconds), 20)

    def sends(self, id: str, *seconds: float, state: str = "current") -> None:
        rows = []
        for moment in seconds:
            self._number += 1
            uid = f"1.{self._number}"
            rows.append(instance(uid, association_id=id, received_at=at(moment), state=state))
        receiving.add_first_instances(self.connection, rows)
        studies.grow(self.connection, rows)

    def ends(self, id: str, seconds: float, aborted: bool = False) -> None:
        receiving.end_association(self.connection, id, aborted, at(seconds))

    def pauses(self) -> Pauses:
        return facts(self.connection).pauses


def test_a_pause_between_two_associations_of_a_source_is_learned(catalogue: Catalogue) -> None:
    with catalogue.write() as connection:
        sender = Sender(connection)
        sender.opens("a")
        sender.sends("a", 0, 0.1, 0.2)
        sender.ends("a", 0.3)
        assert sender.pauses() == Pauses()
        evidence.complete_study(connection, "1", "released", at(0.2), at(4))
        sender.opens("b", seconds=10)
        sender.sends("b", 10.2, 10.3)
        assert sender.pauses().between_s == pytest.approx(10, abs=0.01)
        assert facts(connection).source == "SCANNER"
        sender.opens("elsewhere", "OTHER", 11)
        studies.grow(connection, [instance("2.1", study="2", association_id="elsewhere", received_at=at(11))])
        assert facts(connection, "2").pauses == Pauses()


@pytest.mark.parametrize(
    ("case", "aborted", "title", "seconds", "state"),
    [
        ("after an abort: a retry, no habit", True, "SCANNER", 10, "current"),
        ("another source", False, "OTHER", 10, "current"),
        ("too long for a pause within a study", False, "SCANNER", 61, "current"),
        ("the ordinary rhythm", False, "SCANNER", 0.4, "current"),
        ("a report, written later", False, "SCANNER", 10, "document"),
    ],
)
def test_what_is_no_pause(
    catalogue: Catalogue, case: str, aborted: bool, title: str, seconds: float, state: str
) -> None:
    with catalogue.write() as connection:
        sender = Sender(connection)
        sender.opens("a")
        sender.sends("a", 0)
        sender.ends("a", 0.1, aborted)
        sender.opens("b", title, seconds)
        sender.sends("b", seconds, state=state)
        assert sender.pauses() == Pauses(), case


def test_a_pause_inside_an_association_is_another_kind_and_beside_an_open_one_none(catalogue: Catalogue) -> None:
    with catalogue.write() as connection:
        sender = Sender(connection)
        sender.opens("a")
        sender.sends("a", 0)
        sender.opens("b", seconds=10)
        sender.sends("b", 10)
        assert sender.pauses() == Pauses()
        sender.sends("b", 30)
        assert sender.pauses() == Pauses(inside_s=pytest.approx(20, abs=0.01))


def test_the_longest_pause_is_kept_for_a_week_after_it_was_last_seen(catalogue: Catalogue) -> None:
    day = 86400

    def pauses(seconds: float) -> float:
        return evidence._pauses(connection, at(seconds)).get("SCANNER", Pauses()).between_s

    with catalogue.write() as connection:
        for pause, seconds in ((10, 0), (30, 1), (16, 5 * day), (2, 6 * day)):
            evidence.observe_pause(connection, "SCANNER", "between", pause, at(seconds))
        assert pauses(11.9 * day) == 30
        assert pauses(12.1 * day) == 0
        evidence.observe_pause(connection, "SCANNER", "between", 4, at(12.1 * day))
        assert pauses(12.2 * day) == 4


def test_known_content_that_comes_again_keeps_a_study_awake_and_links_its_sender(catalogue: Catalogue) -> None:
    with catalogue.write() as connection:
        sender = Sender(connection)
        sender.opens("a")
        sender.sends("a", 0)
        sender.ends("a", 1, aborted=True)
        sender.opens("b", seconds=5)
        again = instance("1.1", association_id="b", received_at=at(6))
        studies.come_again(connection, again)
        assert facts(connection).last_received_at == at(6)
        assert len(facts(connection).associations) == 2
        evidence.complete_study(connection, "1", "quiet", at(6), at(40))
        studies.come_again(connection, again)
        assert evidence.receiving_studies(connection, at(50)) == {}


def test_places_are_those_of_current_images(catalogue: Catalogue) -> None:
    with catalogue.write() as connection:
        for number in (1, 2, 4):
            receive(connection, instance(f"1.{number}", number=number))
        receive(connection, instance("1.9"))
        assert "instance numbers" in gap_of(evidence.places(connection, "1"))
        receive(connection, instance("1.3", number=3))
        assert gap_of(evidence.places(connection, "1")) == ""


def test_the_slowest_receiver_says_how_far_the_rows_are_behind(catalogue: Catalogue) -> None:
    with catalogue.write() as connection:
        assert processes.behind_s(connection, now()) == 0
        processes.beat(connection, "receiver", now(), {"behind_s": 1.5})
        processes.beat(connection, "receiver-2", now(), {"behind_s": 4})
        processes.beat(connection, "receiver-3", now(), {"refused": {}})
        processes.beat(connection, "worker-1", now(), {"behind_s": 99})
        assert processes.behind_s(connection, now()) == 4
        stopped_s = processes.behind_s(connection, now() + timedelta(seconds=60))
        assert 55 < stopped_s < 60, "what an indexer that stopped has not told may be anything"
        assert processes.behind_s(connection, now() + timedelta(hours=2)) == 0
