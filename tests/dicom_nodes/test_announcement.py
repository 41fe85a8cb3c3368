"""What acknowledged messages mean, and that broken ones mean a reason, nothing more."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import Dataset

from appliance.catalogue import Catalogue, outbox
from appliance.catalogue.announcements import Availability, ProcedureStep
from dicom_nodes import announcement
from dicom_nodes.announcement import Meaning
from dicom_nodes.commitment import Report
from dicom_nodes.contexts import IAN, MPPS
from dicom_nodes.message import Message
from tests.written import AT, commitment_report, notification, references, sent, step

CT = "1.2.840.10008.5.1.4.1.1.2"


def meaning(folder: Path, message: Message) -> Meaning:
    (folder / "one.msg").write_bytes(message.encode())
    return announcement.read(folder, "one.msg")


def test_a_procedure_step_is_created_and_completed(tmp_path: Path) -> None:
    found = meaning(tmp_path, step("N-CREATE", "IN PROGRESS", ["1", "1"]))
    assert found == Meaning(ProcedureStep("9.1", ("1",), "IN PROGRESS", None), datetime.fromisoformat(AT))
    found = meaning(tmp_path, step("N-SET", "COMPLETED", images=["1.1", "1.2", "1.3"]))
    assert found.what == ProcedureStep("9.1", (), "COMPLETED", ("1.1", "1.2", "1.3"))


def test_a_notification_names_what_is_there_and_what_is_not(tmp_path: Path) -> None:
    groups = references(["1.1"], "ONLINE") + references(["1.2"]), references(["1.3"], "UNAVAILABLE")
    found = meaning(tmp_path, notification("1", *groups))
    assert found.what == Availability("8.1", "1", ("1.1", "1.2"), ("1.3",))
    unnamed = replace(notification("1", references(["1.1"])), sop_instance_uid="")
    assert meaning(tmp_path, unnamed).what == Availability("1", "1", ("1.1",), ())


def test_a_commitment_report_is_kept_once_however_often_it_is_told(tmp_path: Path, catalogue: Catalogue) -> None:
    found = meaning(tmp_path, commitment_report("7.1", ["1.1"], ["1.2"]))
    assert found.what == Report("7.1", "PACS", ((CT, "1.1"),), ((CT, "1.2", 0x0112),))
    for _ in range(2):
        with catalogue.write() as connection:
            announcement.write(connection, found)
    with catalogue.read() as connection:
        (row,) = outbox.unread_reports(connection)
    assert (row.transaction_uid, row.ae_title, row.received_at) == ("7.1", "PACS", datetime(2026, 1, 1, 10, tzinfo=UTC))
    assert (row.stored, row.failed) == ([[CT, "1.1"]], [[CT, "1.2", 0x0112]])


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (sent("N-SET", IAN, "8.1", Dataset()), "this command"),
        (sent("N-CREATE", "1.2.3", "8.1", Dataset()), "this command"),
        (notification("not a UID"), "names no study"),
        (replace(step("N-SET", "COMPLETED"), sop_instance_uid="x"), "no SOP Instance UID"),
        (commitment_report("", []), "no Transaction UID"),
        (replace(notification("1"), received_at="yesterday"), "isoformat"),
        (replace(notification("1"), transfer_syntax_uid=""), "transfer syntax"),
    ],
)
def test_what_cannot_be_understood_is_a_reason(tmp_path: Path, message: Message, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        meaning(tmp_path, message)


def test_what_is_not_a_uid_and_unknown_states_are_left_out(tmp_path: Path) -> None:
    odd = step("N-CREATE", "perhaps", ["1", "x" * 64], ["1.1", "Y", "1.2" * 30])
    assert meaning(tmp_path, odd).what == ProcedureStep("9.1", ("1",), "", ("1.1",))


@given(dataset=st.binary(max_size=300), cut=st.integers(0, 400), sop_class=st.sampled_from([IAN, MPPS]))
@settings(max_examples=200, deadline=None)
def test_nothing_but_a_value_error_comes_of_any_bytes(
    tmp_path_factory: pytest.TempPathFactory, dataset: bytes, cut: int, sop_class: str
) -> None:
    whole = step("N-CREATE", "COMPLETED", ["1"], ["1.1", "1.2"]).dataset
    message = Message("N-CREATE", sop_class, "9.1", None, "1.2.840.10008.1.2.1", "A", "h", AT, whole[:cut] + dataset)
    with contextlib.suppress(ValueError):
        meaning(tmp_path_factory.getbasetemp(), message)
