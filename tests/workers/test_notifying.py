"""What others are told beside the results: IAN over a real association, HL7 over a real MLLP connection."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hl7apy.parser import parse_message
from pydicom import Dataset
from pynetdicom import AE, AllStoragePresentationContexts, evt
from pynetdicom.sop_class import InstanceAvailabilityNotification  # type: ignore[attr-defined]
from sqlalchemy import select, update

from appliance.catalogue import Catalogue, notices
from appliance.catalogue.connection import now
from appliance.catalogue.tables import job as job_table
from appliance.catalogue.tables import notice, outbox
from appliance.settings import Settings, parse
from dicom_nodes import observation_message
from tests.appliance.catalogue.rows import queued_job
from tests.mllp_listener import Listener, acknowledged
from tests.workers.parcels import DESTINATION, MR, SECONDARY_CAPTURE, happened, job_state, make_due, waiting_job
from tests.workers.parcels import states as outbox_states
from workers.delivery import Delivery

RECEIVER = '[[messages]]\nname = "ris"\nhost = "127.0.0.1"\nport = {port}\napplication = "RIS"\n{more}\n'
PATIENT = "Phantom^Head"  # the phantoms' PatientName


class Informed:
    """A PACS that stores, and takes Instance Availability Notifications."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.store_statuses: list[int] = []  # of the next objects; then 0x0000
        self.notice_status = 0x0000
        self.told: list[tuple[str, Dataset]] = []
        self.takes_notices = True

    def start(self) -> None:
        ae = AE(ae_title="PACS")
        for context in AllStoragePresentationContexts:
            ae.add_supported_context(str(context.abstract_syntax))
        if self.takes_notices:
            ae.add_supported_context(InstanceAvailabilityNotification)
        events: list[Any] = [(evt.EVT_C_STORE, self._on_store), (evt.EVT_N_CREATE, self._on_notice)]
        self._server = ae.start_server(("127.0.0.1", self.port), block=False, evt_handlers=events)

    def stop(self) -> None:
        self._server.shutdown()

    def _on_store(self, event: Any) -> int:
        return self.store_statuses.pop(0) if self.store_statuses else 0x0000

    def _on_notice(self, event: Any) -> tuple[int, Dataset | None]:
        self.told.append((str(event.request.AffectedSOPInstanceUID), event.attribute_list))
        return self.notice_status, event.attribute_list


@pytest.fixture
def pacs(free_port: int) -> Iterator[Informed]:
    made = Informed(free_port)
    made.start()
    yield made
    made.stop()


@pytest.fixture
def listener() -> Iterator[Listener]:
    made = Listener()
    made.start()
    yield made
    made.stop()


def settings_of(folder: Path, port: int, keys: str = "", more: str = "") -> Settings:
    text = DESTINATION.format(port=port, more=f"commitment = false\n{keys}") + more
    return parse(text, folder / "curie.toml")


@pytest.fixture
def informing(tmp_path: Path, pacs: Informed) -> Settings:
    return settings_of(tmp_path, pacs.port, "notify = true")


@pytest.fixture
def writing(tmp_path: Path, pacs: Informed, listener: Listener) -> Settings:
    return settings_of(tmp_path, pacs.port, more=RECEIVER.format(port=listener.port, more=""))


def rows(catalogue: Catalogue) -> list[Any]:
    with catalogue.read() as connection:
        return list(connection.execute(select(notice).order_by(notice.c.id)).all())


def states(catalogue: Catalogue) -> list[str]:
    return [row.state for row in rows(catalogue)]


def notices_due(catalogue: Catalogue) -> None:
    with catalogue.write() as connection:
        connection.execute(update(notice).values(due_at=now() - timedelta(seconds=1)))


# --- Instance Availability Notification ---


def test_results_that_are_there_are_announced_once(informing: Settings, catalogue: Catalogue, pacs: Informed) -> None:
    job = waiting_job(catalogue, informing)
    delivery = Delivery(informing, catalogue)
    delivery.step()
    delivery.step()
    ((uid, content),) = pacs.told
    assert uid.startswith("2.25.")
    assert content.StudyInstanceUID == "1"
    assert list(content.ReferencedPerformedProcedureStepSequence) == []
    (series,) = content.ReferencedSeriesSequence
    assert series.SeriesInstanceUID == "1.2"
    assert len(series.ReferencedSOPSequence) == 2
    for item in series.ReferencedSOPSequence:
        assert (item.ReferencedSOPClassUID, item.InstanceAvailability, item.RetrieveAETitle) == (MR, "ONLINE", "PACS")
    assert [(row.state, row.answer) for row in rows(catalogue)] == [("sent", "0x0000")]
    assert job_state(catalogue, job) == "completed"
    assert happened(catalogue, "notice_sent") == 1


def test_it_waits_until_all_of_a_job_is_there(informing: Settings, catalogue: Catalogue, pacs: Informed) -> None:
    waiting_job(catalogue, informing)
    delivery = Delivery(informing, catalogue)
    pacs.store_statuses = [0x0000, 0xA700]
    delivery.step()
    assert outbox_states(catalogue) == ["delivered", "waiting"]
    assert rows(catalogue) == []
    make_due(catalogue)
    delivery.step()
    assert len(pacs.told) == 1


def test_it_names_nothing_that_is_not_there(tmp_path: Path, catalogue: Catalogue, pacs: Informed) -> None:
    settings = settings_of(tmp_path, pacs.port, 'notify = true\nresults = ["SEG", "SR", "SC"]')
    waiting_job(catalogue, settings, (("SEG", MR), ("SR", MR), ("SC", SECONDARY_CAPTURE)))
    pacs.stop()
    kept = AllStoragePresentationContexts[:]
    try:
        AllStoragePresentationContexts[:] = [c for c in kept if c.abstract_syntax != SECONDARY_CAPTURE]
        pacs.start()
    finally:
        AllStoragePresentationContexts[:] = kept
    Delivery(settings, catalogue).step()
    ((_, content),) = pacs.told
    named = [i.ReferencedSOPClassUID for s in content.ReferencedSeriesSequence for i in s.ReferencedSOPSequence]
    assert named == [MR, MR]


def test_a_refusal_is_tried_again_with_the_same_uid_and_fails_no_job(
    informing: Settings, catalogue: Catalogue, pacs: Informed
) -> None:
    job = waiting_job(catalogue, informing)
    delivery = Delivery(informing, catalogue)
    pacs.notice_status = 0x0110
    delivery.step()
    assert [(row.state, row.tries) for row in rows(catalogue)] == [("waiting", 1)]
    assert "0x0110" in rows(catalogue)[0].answer
    assert job_state(catalogue, job) == "completed"
    pacs.notice_status = 0x0000
    delivery.step()
    assert len(pacs.told) == 1, "it is not due yet"
    notices_due(catalogue)
    delivery.step()
    assert states(catalogue) == ["sent"]
    assert len({uid for uid, _ in pacs.told}) == 1


def test_a_notification_that_is_known_already_was_sent(
    informing: Settings, catalogue: Catalogue, pacs: Informed
) -> None:
    waiting_job(catalogue, informing)
    pacs.notice_status = 0x0111
    Delivery(informing, catalogue).step()
    assert [(row.state, row.answer) for row in rows(catalogue)] == [("sent", "0x0111")]


def test_an_ae_that_takes_no_notifications_is_asked_once_and_told_of_once(
    informing: Settings, catalogue: Catalogue, pacs: Informed, capfd: pytest.CaptureFixture[str]
) -> None:
    job = waiting_job(catalogue, informing)
    pacs.stop()
    pacs.takes_notices = False
    pacs.start()
    delivery = Delivery(informing, catalogue)
    for _ in range(3):
        delivery.step()
        notices_due(catalogue)
    assert states(catalogue) == ["refused"]
    assert "accepts none of: Instance Availability Notification" in rows(catalogue)[0].answer
    assert happened(catalogue, "notice_refused") == 1
    assert "".join(capfd.readouterr()).count("notice_refused") == 1
    assert job_state(catalogue, job) == "completed"
    pacs.stop()
    pacs.takes_notices = True
    pacs.start()
    with catalogue.write() as connection:
        assert notices.retry(connection, job, now()) == 1
    delivery.step()
    assert states(catalogue) == ["sent"]


def test_a_status_that_will_not_change_is_told_once(informing: Settings, catalogue: Catalogue, pacs: Informed) -> None:
    waiting_job(catalogue, informing)
    pacs.notice_status = 0x0124
    delivery = Delivery(informing, catalogue)
    for _ in range(2):
        delivery.step()
        notices_due(catalogue)
    assert len(pacs.told) == 1
    assert states(catalogue) == ["refused"]


def test_a_destination_that_is_notified_no_more(
    tmp_path: Path, informing: Settings, catalogue: Catalogue, pacs: Informed
) -> None:
    waiting_job(catalogue, informing)
    pacs.notice_status = 0x0110
    Delivery(informing, catalogue).step()
    notices_due(catalogue)
    Delivery(settings_of(tmp_path, pacs.port), catalogue).step()
    assert states(catalogue) == ["refused"]
    assert "not notified any more" in rows(catalogue)[0].answer


# --- HL7 ---


def test_a_finished_job_is_one_message(writing: Settings, catalogue: Catalogue, listener: Listener) -> None:
    job = waiting_job(catalogue, writing)
    delivery = Delivery(writing, catalogue)
    delivery.step()
    delivery.step()
    (content,) = listener.messages
    read = parse_message(content.decode(), find_groups=True)
    read.validate()
    assert read.msh.msh_5.to_er7() == "RIS"
    assert read.oru_r01_patient_result.oru_r01_patient.pid.pid_5.to_er7().startswith(PATIENT)
    assert [(row.state, row.answer) for row in rows(catalogue)] == [("sent", "AA")]
    assert job_state(catalogue, job) == "completed"


def test_urgent_is_said(writing: Settings, catalogue: Catalogue, listener: Listener) -> None:
    job = waiting_job(catalogue, writing)
    with catalogue.write() as connection:
        connection.execute(update(job_table).where(job_table.c.id == job).values(priority=0))
    Delivery(writing, catalogue).step()
    assert b"S^Stat^HL70485" in listener.messages[0]


def test_what_is_not_acknowledged_is_sent_again_under_the_same_control_id(
    writing: Settings, catalogue: Catalogue, listener: Listener, capfd: pytest.CaptureFixture[str]
) -> None:
    job = waiting_job(catalogue, writing)
    listener.answer = acknowledged("AE")
    delivery = Delivery(writing, catalogue)
    delivery.step()
    assert [(row.state, row.tries) for row in rows(catalogue)] == [("waiting", 1)]
    assert job_state(catalogue, job) == "completed"
    listener.answer = acknowledged("AA")
    notices_due(catalogue)
    delivery.step()
    assert states(catalogue) == ["sent"]
    assert len({one.split(b"|")[9] for one in listener.messages}) == 1
    said = "".join(capfd.readouterr()) + "".join(row.answer for row in rows(catalogue))
    assert PATIENT not in said
    assert "PID" not in said


def test_a_rejection_is_told_once_and_waits_for_a_person(
    writing: Settings, catalogue: Catalogue, listener: Listener
) -> None:
    job = waiting_job(catalogue, writing)
    listener.answer = acknowledged("AR")
    delivery = Delivery(writing, catalogue)
    for _ in range(2):
        delivery.step()
        notices_due(catalogue)
    assert states(catalogue) == ["refused"]
    assert len(listener.messages) == 1
    assert happened(catalogue, "notice_refused") == 1
    listener.answer = acknowledged("AA")
    with catalogue.write() as connection:
        assert notices.retry(connection, job, now()) == 1
    delivery.step()
    assert states(catalogue) == ["sent"]


@pytest.mark.parametrize(("name", "wanted"), [("other", 0), ("route", 1)])
def test_only_the_routes_that_are_asked_for(
    tmp_path: Path, catalogue: Catalogue, pacs: Informed, listener: Listener, name: str, wanted: int
) -> None:
    routes = "".join(f'[[routes]]\nname = "{one}"\npackage = "brain"\n' for one in ("route", "other"))
    told = RECEIVER.format(port=listener.port, more=f'routes = ["{name}"]')
    settings = settings_of(tmp_path, pacs.port, more=routes + told)
    waiting_job(catalogue, settings)
    Delivery(settings, catalogue).step()
    assert len(listener.messages) == wanted


def test_without_the_library_messages_wait_and_results_go(
    writing: Settings, catalogue: Catalogue, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = waiting_job(catalogue, writing)
    monkeypatch.setattr(observation_message, "find_spec", lambda name: None)
    Delivery(writing, catalogue).step()
    assert job_state(catalogue, job) == "completed"
    assert states(catalogue) == ["waiting"]
    assert "petite-curie[hl7]" in rows(catalogue)[0].answer
    monkeypatch.undo()
    notices_due(catalogue)
    Delivery(writing, catalogue).step()
    assert states(catalogue) == ["sent"]


def test_one_recipient_that_fails_keeps_no_other_waiting(
    tmp_path: Path, catalogue: Catalogue, pacs: Informed, listener: Listener
) -> None:
    gone = Listener()
    gone.start()
    gone.stop()
    more = RECEIVER.format(port=gone.port, more="") + RECEIVER.format(port=listener.port, more="").replace("ris", "two")
    settings = settings_of(tmp_path, pacs.port, more=more)
    waiting_job(catalogue, settings)
    Delivery(settings, catalogue).step()
    assert states(catalogue) == ["waiting", "sent"]


def test_a_recipient_that_is_away_is_asked_once_a_pass(
    writing: Settings, catalogue: Catalogue, listener: Listener
) -> None:
    first, second = waiting_job(catalogue, writing), queued_job(catalogue, "2")
    listener.stop()
    with catalogue.write() as connection:
        for job in (first, second):
            notices.opened(connection, notices.OBSERVATIONS, job, "ris", now())
    delivery = Delivery(writing, catalogue)
    delivery.serve("pacs")
    delivery.notifying.step()
    listener.start()
    assert [row.tries for row in rows(catalogue)] == [1, 0]


def test_what_breaks_in_one_notice_stops_no_other(
    tmp_path: Path, catalogue: Catalogue, pacs: Informed, listener: Listener
) -> None:
    settings = settings_of(tmp_path, pacs.port, "notify = true", RECEIVER.format(port=listener.port, more=""))
    waiting_job(catalogue, settings)
    for path in settings.results_dir.rglob("*SR.dcm"):
        content = path.read_bytes()
    delivery = Delivery(settings, catalogue)
    delivery.serve("pacs")
    for path in settings.results_dir.rglob("*SR.dcm"):
        path.write_bytes(b"no DICOM")
    delivery.finish()
    delivery.notifying.step()
    assert {row.kind: row.state for row in rows(catalogue)} == {"ian": "sent", "oru": "waiting"}
    path.write_bytes(content)


def test_a_notification_speaks_of_its_own_destination_alone(tmp_path: Path, catalogue: Catalogue) -> None:
    two = DESTINATION.format(port=1, more="").replace('"pacs"', '"two"')
    job = waiting_job(catalogue, settings_of(tmp_path, 1, more=two))
    with catalogue.write() as connection:
        connection.execute(update(outbox).values(state="delivered"))
        first = select(outbox.c.id).where(outbox.c.destination == "pacs").limit(1).scalar_subquery()
        connection.execute(update(outbox).where(outbox.c.id == first).values(state="withdrawn"))
        for name, wanted in (("pacs", 1), ("two", 2)):
            told = notices.told(connection, notices.Notice(1, notices.AVAILABILITY, job, name, 0))
            assert len(told.objects) == wanted
