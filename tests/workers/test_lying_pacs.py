"""A PACS that lies about storage commitment: nothing is believed that is not so, and each parcel ends where it should.

A real Storage and Storage Commitment SCP in this process; what it stores lies in a folder, so that "committed" can be
held against what is there.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset
from pynetdicom.sop_class import StorageCommitmentPushModel

from appliance.catalogue import Catalogue, outbox
from appliance.catalogue.connection import now
from appliance.settings import Settings
from dicom_nodes import announcement, sender
from dicom_nodes.contexts import STORAGE_COMMITMENT, STORAGE_COMMITMENT_INSTANCE
from dicom_nodes.demo_pacs import DemoPacs
from dicom_nodes.sender import Timeouts
from tests.workers.parcels import CT, MR, happened, job_state, make_due, rows, settings_for, states, waiting_job
from tests.written import sent
from workers import commitments
from workers.commitments import MOST_LOSSES
from workers.delivery import Delivery

Telling = Callable[["Liar", Any, Dataset], None]


class Liar(DemoPacs):
    """A PACS that stores honestly and reports as a test wants it."""

    def __init__(self, folder: Path, port: int) -> None:
        super().__init__(folder, port)
        self.tell: Telling = lambda liar, association, request: liar.say(association, liar.honest(request))
        self.requests: list[Dataset] = []
        self.stored = 0
        self.answers: list[int] = []  # to its reports

    def honest(self, request: Dataset) -> Dataset:
        """Return the report that is so."""
        return self._report(request)

    def say(self, association: Any, report: Dataset, number: int | None = None) -> None:
        """Send one report on the association of the request."""
        number = number or (2 if report.get("FailedSOPSequence") else 1)
        status, _ = association.send_n_event_report(
            report, number, StorageCommitmentPushModel, STORAGE_COMMITMENT_INSTANCE
        )
        self.answers.append(int(status.get("Status", -1)))

    def _on_store(self, event: Any) -> int:
        self.stored += 1
        return super()._on_store(event)

    def _send(self, requesting: Any, calling: str, number: int, report: Dataset) -> None:
        time.sleep(0.05)
        self.tell(self, requesting, self.requests[-1])

    def _on_commit(self, event: Any) -> tuple[int, None]:
        self.requests.append(event.action_information)
        return super()._on_commit(event)


@pytest.fixture
def settings(tmp_path: Path, free_port: int) -> Settings:
    return settings_for(tmp_path, free_port)


@pytest.fixture
def liar(tmp_path: Path, settings: Settings) -> Iterator[Liar]:
    made = Liar(tmp_path / "pacs", settings.destinations[0].port)
    made.start()
    yield made
    made.stop()


@pytest.fixture
def job(catalogue: Catalogue, settings: Settings) -> str:
    return waiting_job(catalogue, settings)


def other_transaction(report: Dataset) -> None:
    report.TransactionUID = "1.2.3.4"


def adds_one(report: Dataset) -> None:
    extra = Dataset()
    extra.ReferencedSOPClassUID, extra.ReferencedSOPInstanceUID = MR, "1.2.3.4.5"
    report.ReferencedSOPSequence.append(extra)


def removes_one(report: Dataset) -> None:
    del report.ReferencedSOPSequence[1]


def removes_all(report: Dataset) -> None:
    report.ReferencedSOPSequence = []


def names_one_twice(report: Dataset) -> None:
    report.ReferencedSOPSequence.append(report.ReferencedSOPSequence[0])


def swaps_one(report: Dataset) -> None:
    report.ReferencedSOPSequence[0].ReferencedSOPInstanceUID = "1.2.3.4.5"


def names_one_twice_for_the_other(report: Dataset) -> None:
    report.ReferencedSOPSequence[0] = report.ReferencedSOPSequence[1]


def other_class(report: Dataset) -> None:
    for item in report.ReferencedSOPSequence:
        item.ReferencedSOPClassUID = CT


def stored_and_failed(report: Dataset) -> None:
    failed = Dataset()
    failed.update(report.ReferencedSOPSequence[0])
    failed.FailureReason = 0x0110
    report.FailedSOPSequence = [failed]


LIES = [
    other_transaction, adds_one, removes_one, removes_all, names_one_twice, swaps_one, names_one_twice_for_the_other,
    other_class, stored_and_failed,
]  # fmt: skip


@pytest.mark.parametrize("lie", LIES)
def test_a_report_that_is_not_the_request_commits_nothing_and_is_asked_again(
    settings: Settings, catalogue: Catalogue, liar: Liar, job: str, lie: Callable[[Dataset], None]
) -> None:
    def tell(liar: Liar, association: Any, request: Dataset) -> None:
        report = liar.honest(request)
        lie(report)
        liar.say(association, report)

    honest, liar.tell = liar.tell, tell
    delivery = Delivery(settings, catalogue)
    delivery.step()
    assert states(catalogue) == ["delivered", "delivered"]
    assert job_state(catalogue, job) == "delivering"
    assert len(liar.requests) == 1, "asked again after a minute, not at once"
    liar.tell = honest
    make_due(catalogue)
    delivery.step()
    assert states(catalogue) == ["committed", "committed"]
    assert job_state(catalogue, job) == "completed"
    assert liar.stored == 2, "nothing was sent again"


def test_event_type_2_without_failures_is_no_report(
    settings: Settings, catalogue: Catalogue, liar: Liar, job: str
) -> None:
    liar.tell = lambda liar, association, request: liar.say(association, liar.honest(request), 2)
    Delivery(settings, catalogue).step()
    assert states(catalogue) == ["delivered", "delivered"]
    assert liar.answers == [0x0115]


def test_event_type_1_with_failures_is_no_report(
    settings: Settings, catalogue: Catalogue, liar: Liar, job: str
) -> None:
    def tell(liar: Liar, association: Any, request: Dataset) -> None:
        liar.say(association, failing(liar.honest(request), 0x0112), 1)

    liar.tell = tell
    Delivery(settings, catalogue).step()
    assert states(catalogue) == ["delivered", "delivered"]
    assert liar.answers == [0x0115]


def test_the_receiver_takes_no_such_report_either(catalogue: Catalogue) -> None:
    report = Dataset()
    report.TransactionUID = "1.2.3"
    one = Dataset()
    one.ReferencedSOPClassUID, one.ReferencedSOPInstanceUID = MR, "1.2"
    report.ReferencedSOPSequence = [one]
    for number in (2, None, 3):
        with pytest.raises(ValueError, match="event type"):
            announcement._interpret(sent("N-EVENT-REPORT", STORAGE_COMMITMENT, "1.2", report, number))
    assert announcement._interpret(sent("N-EVENT-REPORT", STORAGE_COMMITMENT, "1.2", report, 1))


def test_a_report_of_another_ae_is_not_believed(settings: Settings, catalogue: Catalogue, liar: Liar, job: str) -> None:
    def tell(liar: Liar, association: Any, request: Dataset) -> None:
        report_at_receiver(catalogue, liar.honest(request), "OTHER")

    liar.tell = tell
    delivery = Delivery(settings, catalogue)
    delivery.step()
    assert states(catalogue) == ["delivered", "delivered"]
    report_at_receiver(catalogue, liar.honest(liar.requests[0]), "PACS")
    delivery.step()
    assert states(catalogue) == ["committed", "committed"]


def test_a_pacs_that_never_reports_is_asked_again_and_sent_nothing(
    settings: Settings, catalogue: Catalogue, liar: Liar, job: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commitments, "REPORT_WAIT_S", 0.2)
    liar.tell = lambda liar, association, request: None
    delivery = Delivery(settings, catalogue)
    waits = []
    for _ in range(3):
        make_due(catalogue)
        delivery.step()
        waits.append(round((rows(catalogue)[0].due_at - now()).total_seconds(), -1))
    assert states(catalogue) == ["delivered", "delivered"]
    assert waits == [60, 120, 240]
    assert liar.stored == 2
    assert len({request.TransactionUID for request in liar.requests}) == 1


def test_a_pacs_that_never_answers_the_request_is_asked_again(
    settings: Settings, catalogue: Catalogue, liar: Liar, job: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dicom_nodes.sender.Timeouts", lambda: Timeouts(answer_s=0.5))
    answering = liar._on_commit

    def silent(event: Any) -> tuple[int, None]:
        time.sleep(1.5)
        return 0x0000, None

    restart(liar, silent)
    delivery = Delivery(settings, catalogue)
    delivery.step()
    assert states(catalogue) == ["delivered", "delivered"]
    assert "storage commitment" in rows(catalogue)[0].answer
    monkeypatch.undo()
    restart(liar, answering)
    make_due(catalogue)
    delivery.step()
    assert states(catalogue) == ["committed", "committed"]


def test_the_same_report_twice_is_one_report(settings: Settings, catalogue: Catalogue, liar: Liar, job: str) -> None:
    def tell(liar: Liar, association: Any, request: Dataset) -> None:
        report = liar.honest(request)
        report_at_receiver(catalogue, report, "PACS")
        liar.say(association, report)

    liar.tell = tell
    delivery = Delivery(settings, catalogue)
    delivery.step()
    report_at_receiver(catalogue, liar.honest(liar.requests[0]), "PACS")
    delivery.step()
    assert states(catalogue) == ["committed", "committed"]
    assert happened(catalogue, "result_committed") == 2
    with catalogue.read() as connection:
        assert outbox.unread_reports(connection) == []


@pytest.mark.parametrize("good_news_first", [True, False])
def test_two_reports_that_contradict_each_other_are_both_not_believed(
    settings: Settings, catalogue: Catalogue, liar: Liar, job: str, good_news_first: bool
) -> None:
    liar.tell = lambda liar, association, request: None
    delivery = Delivery(settings, catalogue)
    delivery.step()
    honest = liar.honest(liar.requests[0])
    both = [honest, failing(liar.honest(liar.requests[0]), 0x0112)]
    for report in both if good_news_first else both[::-1]:
        report_at_receiver(catalogue, report, "PACS")
    delivery.step()
    assert states(catalogue) == ["delivered", "delivered"]
    assert liar.stored == 2
    report_at_receiver(catalogue, honest, "PACS")
    delivery.step()
    assert states(catalogue) == ["committed", "committed"]


def test_a_yes_that_is_taken_back_later_is_said_and_nothing_moves(
    settings: Settings, catalogue: Catalogue, liar: Liar, job: str
) -> None:
    delivery = Delivery(settings, catalogue)
    delivery.step()
    assert states(catalogue) == ["committed", "committed"]
    for who in ("OTHER", "PACS"):
        report_at_receiver(catalogue, failing(liar.honest(liar.requests[0]), 0x0112), who)
        delivery.step()
    assert states(catalogue) == ["committed", "committed"]
    assert happened(catalogue, "commitment_taken_back") == 1


def test_what_is_not_there_is_sent_again_until_it_was_lost_too_often(
    settings: Settings, catalogue: Catalogue, liar: Liar, job: str
) -> None:
    def tell(liar: Liar, association: Any, request: Dataset) -> None:
        liar.say(association, failing(liar.honest(request), 0x0112))

    liar.tell = tell
    delivery = Delivery(settings, catalogue)
    for _ in range(MOST_LOSSES + 2):
        make_due(catalogue)
        delivery.step()
    assert states(catalogue)[0] == "rejected"
    assert f"took it {MOST_LOSSES} times" in rows(catalogue)[0].answer
    assert job_state(catalogue, job) == "failed"
    assert liar.stored == MOST_LOSSES + 1, "the other one went once"


def test_a_class_conflict_ends_rejected_and_is_not_asked_for_ever(
    settings: Settings, catalogue: Catalogue, liar: Liar, job: str
) -> None:
    def tell(liar: Liar, association: Any, request: Dataset) -> None:
        liar.say(association, failing(liar.honest(request), 0x0119))

    liar.tell = tell
    delivery = Delivery(settings, catalogue)
    delivery.step()
    assert states(catalogue) == ["rejected", "committed"]
    assert "0x0119" in rows(catalogue)[0].answer
    assert job_state(catalogue, job) == "failed"
    make_due(catalogue)
    delivery.step()
    assert len(liar.requests) == 1


@pytest.mark.parametrize("reason", [0x0110, 0x0213, 0x0131])
def test_other_failures_are_asked_again_later(
    settings: Settings, catalogue: Catalogue, liar: Liar, job: str, reason: int
) -> None:
    honest = liar.tell

    def tell(liar: Liar, association: Any, request: Dataset) -> None:
        liar.say(association, failing(liar.honest(request), reason))

    liar.tell = tell
    delivery = Delivery(settings, catalogue)
    delivery.step()
    assert states(catalogue) == ["delivered", "committed"]
    assert 50 < (rows(catalogue)[0].due_at - now()).total_seconds() < 70
    liar.tell = honest
    make_due(catalogue)
    delivery.step()
    assert states(catalogue) == ["committed", "committed"]
    assert liar.stored == 2
    assert liar.requests[0].TransactionUID != liar.requests[1].TransactionUID


def test_a_success_of_before_a_loss_does_not_count_after_it(
    settings: Settings, catalogue: Catalogue, liar: Liar, job: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The request was replaced: what was said of the first copy is not said of the second."""
    monkeypatch.setattr(commitments, "REPORT_WAIT_S", 0.2)
    liar.tell = lambda liar, association, request: None
    delivery = Delivery(settings, catalogue)
    delivery.step()
    old = liar.honest(liar.requests[0])
    lost = liar.honest(liar.requests[0])
    for item in lost.ReferencedSOPSequence:
        item.FailureReason = 0x0112
    lost.FailedSOPSequence, lost.ReferencedSOPSequence = lost.ReferencedSOPSequence, []
    report_at_receiver(catalogue, lost, "PACS")
    delivery.step()
    assert states(catalogue) == ["waiting", "waiting"]
    make_due(catalogue)
    delivery.step()  # sent again, and asked again
    assert states(catalogue) == ["delivered", "delivered"]
    report_at_receiver(catalogue, old, "PACS")
    delivery.step()
    assert states(catalogue) == ["delivered", "delivered"]
    report_at_receiver(catalogue, liar.honest(liar.requests[-1]), "PACS")
    delivery.step()
    assert states(catalogue) == ["committed", "committed"]


def test_a_report_before_the_answer_to_the_request_counts(
    settings: Settings, catalogue: Catalogue, liar: Liar, job: str
) -> None:
    def hasty(event: Any) -> tuple[int, None]:
        liar.requests.append(event.action_information)
        report_at_receiver(catalogue, liar.honest(event.action_information), "PACS")
        time.sleep(0.3)
        return 0x0000, None

    restart(liar, hasty)
    Delivery(settings, catalogue).step()
    assert states(catalogue) == ["committed", "committed"]
    assert job_state(catalogue, job) == "completed"


def test_a_report_before_the_answer_on_the_same_association_counts(
    settings: Settings, catalogue: Catalogue, liar: Liar, job: str
) -> None:
    def hasty(event: Any) -> tuple[int, None]:
        from io import BytesIO

        from pynetdicom.dimse_primitives import N_EVENT_REPORT
        from pynetdicom.dsutils import encode

        request = N_EVENT_REPORT()
        request.MessageID, request.EventTypeID = 77, 1
        request.AffectedSOPClassUID = StorageCommitmentPushModel
        request.AffectedSOPInstanceUID = STORAGE_COMMITMENT_INSTANCE
        context = event.context
        implicit = context.transfer_syntax == "1.2.840.10008.1.2"
        content = encode(liar.honest(event.action_information), implicit, True)
        request.EventInformation = BytesIO(content or b"")
        event.assoc.dimse.send_msg(request, context.context_id)  # and no look at what comes back
        time.sleep(0.5)
        return 0x0000, None

    restart(liar, hasty)
    Delivery(settings, catalogue).step()
    assert states(catalogue) == ["committed", "committed"]


def failing(report: Dataset, reason: int) -> Dataset:
    """Return a report that says of its first object that it failed."""
    if not report.get("ReferencedSOPSequence"):
        return report
    first = min(range(len(report.ReferencedSOPSequence)), key=lambda n: place_of(report, n))
    item = report.ReferencedSOPSequence[first]
    report.ReferencedSOPSequence = [one for one in report.ReferencedSOPSequence if one is not item]
    item.FailureReason = reason
    report.FailedSOPSequence = [item]
    return report


def place_of(report: Dataset, n: int) -> str:
    return str(report.ReferencedSOPSequence[n].ReferencedSOPInstanceUID)


def report_at_receiver(catalogue: Catalogue, report: Dataset, who: str) -> None:
    """Let a report come over an association that the PACS opened, as the receiver's indexer writes it."""
    number = 2 if report.get("FailedSOPSequence") else 1
    message = sent("N-EVENT-REPORT", STORAGE_COMMITMENT, STORAGE_COMMITMENT_INSTANCE, report, number)
    meaning = announcement._interpret(message)
    with catalogue.write() as connection:
        assert hasattr(meaning, "stored")
        outbox.add_report(connection, meaning.transaction_uid, who, meaning.stored, meaning.failed, now())


def restart(liar: Liar, on_commit: Callable[[Any], tuple[int, None]]) -> None:
    liar.stop()
    liar._on_commit = on_commit  # type: ignore[method-assign]
    liar.start()


def test_a_report_is_answered_before_the_association_ends(settings: Settings, liar: Liar) -> None:
    came = threading.Event()

    def on_report(event: Any) -> tuple[int, None]:
        came.set()
        time.sleep(0.5)  # whoever asked goes on meanwhile
        return 0x0000, None

    began = time.monotonic()
    with sender.commitment_association(settings.destinations[0], "CURIE", on_report) as association:
        sender.ask_commitment(association, "1.2.3", [])
        assert came.wait(5)
    assert time.monotonic() - began < 5
    wait_until(lambda: liar.answers == [0x0000])
    assert association.is_released


def test_a_release_that_waits_for_a_lost_flag_ends(settings: Settings, liar: Liar) -> None:
    short = Timeouts(association_s=1)
    began = time.monotonic()
    with sender.associate(settings.destinations[0], "CURIE", [sender.commitment_context()], timeouts=short) as one:
        time.sleep(0.1)
        one._is_paused = False  # as the thread that serves a report leaves it
    assert time.monotonic() - began < 4
    assert one.is_released


def wait_until(reached: Callable[[], bool], seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while not reached() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert reached()
