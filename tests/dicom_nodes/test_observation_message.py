"""ORU^R01: what a report says comes back from the message, read by a library that is not ours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hl7apy.consts import VALIDATION_LEVEL
from hl7apy.parser import parse_message

from appliance.errors import Missing
from appliance.finding import Code, Finding
from dicom_nodes import observation_message
from dicom_nodes.observation_message import Envelope, Observed, escaped, message, problem
from dicom_nodes.pydicom_quiet import lenient
from tests import phantoms
from tests.made_up import context, findings
from tests.phantoms import Phantom
from workers.tasks import finding_record

ENVELOPE = Envelope("id-1", "st-elsewhere", "RIS", "HOSPITAL", datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC))


def report(folder: Path, **attributes: Any) -> Path:
    """Return a stored object about a patient."""
    (ds, *_) = phantoms.series(Phantom(slices=1))
    ds.SpecificCharacterSet = "ISO_IR 192"
    with lenient():
        for keyword, value in {"AccessionNumber": "ACC1", "StudyDate": "20260101", **attributes}.items():
            setattr(ds, keyword, value)
        (folder / "SR.dcm").write_bytes(phantoms.part10(ds))
    return folder / "SR.dcm"


def observed(found: Sequence[Finding] = (), **changed: Any) -> Observed:
    service = Code("brain", "L", "brain 1.0.0")
    records = [finding_record(one) for one in found]
    said = Observed("1.2.3", "FROM-CATALOGUE", service, False, "", records, datetime(2026, 1, 2, 4, tzinfo=UTC))
    return replace(said, **changed)


def parsed(content: str) -> Any:
    """Return the message as hl7apy reads it, by the strict rules of v2.5.1."""
    read = parse_message(content, find_groups=True, validation_level=VALIDATION_LEVEL.STRICT)
    read.validate()
    assert problem(content) == ""
    return read


def observations(read: Any) -> list[Any]:
    (order,) = read.oru_r01_patient_result.oru_r01_order_observation
    return [one.obx for one in order.oru_r01_observation]


def values(content: str) -> list[tuple[str, str, str]]:
    """Return (type, identifier, value) of each OBX."""
    return [(o.obx_2.to_er7(), o.obx_3.to_er7(), o.obx_5.to_er7()) for o in observations(parsed(content))]


def test_findings_with_their_numbers_units_and_place(tmp_path: Path) -> None:
    read = parsed(message(report(tmp_path), observed(findings(context())), ENVELOPE))
    found = observations(read)
    assert [o.obx_1.to_er7() for o in found] == ["1", "2", "3", "4", "5", "6", "7"]
    assert [o.obx_4.to_er7() for o in found] == ["1", "1", "2", "2", "3", "3", ""]
    assert found[0].obx_3.to_er7() == "12738006^Brain^SCT^Brain^Brain^L"
    assert found[0].obx_5.to_er7() == "52101004^Present^SCT"
    assert found[2].obx_3.to_er7() == "66720007^Lateral ventricle^SCT^Right ventricle^Right ventricle^L"
    volumes = found[1::2][:3]
    assert [(o.obx_2.to_er7(), o.obx_3.to_er7()) for o in volumes] == [("NM", "118565006^Volume^SCT")] * 3
    assert [float(o.obx_5.to_er7()) for o in volumes] == [13.25, 14.25, 15.25]
    assert {o.obx_6.to_er7() for o in volumes} == {"ml^ml^UCUM"}
    assert {o.obx_11.to_er7() for o in found} == {"P"}
    assert found[-1].obx_3.to_er7() == "110180^Study Instance UID^DCM"
    assert found[-1].obx_5.to_er7() == "1.2.3"


def test_a_probability_and_what_is_absent(tmp_path: Path) -> None:
    absent = replace(findings(context())[0], present=False, measurements=(), probability=0.125)
    assert values(message(report(tmp_path), observed([absent]), ENVELOPE))[:2] == [
        ("CWE", "12738006^Brain^SCT^Brain^Brain^L", "2667000^Absent^SCT"),
        ("NM", "111012^Certainty of Finding^DCM", "12.5"),
    ]


def test_what_could_not_be_run_is_no_observation(tmp_path: Path) -> None:
    said = observed(tells="no series fits: 3 slices | 20 needed")
    content = message(report(tmp_path), said, ENVELOPE)
    first, last = observations(parsed(content))
    assert first.obx_3.to_er7() == "121106^Comment^DCM"
    assert first.obx_5.to_er7() == "No result could be made: no series fits: 3 slices \\F\\ 20 needed"
    assert (first.obx_11.to_er7(), last.obx_11.to_er7()) == ("X", "P")
    assert "Present" not in content


@pytest.mark.parametrize(("urgent", "letter"), [(True, "S"), (False, "R")])
def test_the_order_has_accession_number_and_priority(tmp_path: Path, urgent: bool, letter: str) -> None:
    read = parsed(message(report(tmp_path), observed(urgent=urgent), ENVELOPE))
    (order,) = read.oru_r01_patient_result.oru_r01_order_observation
    assert (order.orc.orc_1.to_er7(), order.orc.orc_3.to_er7()) == ("RE", "ACC1")
    assert (order.obr.obr_3.to_er7(), order.obr.obr_18.to_er7()) == ("ACC1", "ACC1")
    assert order.obr.obr_4.to_er7() == "brain^brain 1.0.0^L"
    assert (order.obr.obr_7.to_er7(), order.obr.obr_22.to_er7()) == ("20260101", "20260102040000+0000")
    assert order.obr.obr_25.to_er7() == "P"
    assert order.obr.obr_27.to_er7() == f"^^^^^{letter}"
    assert order.oru_r01_timing_qty.tq1.tq1_9.to_er7()[0] == letter


def test_the_header_names_both_sides_and_the_character_set(tmp_path: Path) -> None:
    head = parsed(message(report(tmp_path), observed(), ENVELOPE)).msh
    assert [head.children.get(f"msh_{n}")[0].to_er7() for n in (3, 4, 5, 6)] == [
        "PETITE-CURIE",
        "st-elsewhere",
        "RIS",
        "HOSPITAL",
    ]
    assert head.msh_7.to_er7() == "20260102030405+0000"
    assert (head.msh_9.to_er7(), head.msh_10.to_er7()) == ("ORU^R01^ORU_R01", "id-1")
    assert (head.msh_12.to_er7(), head.msh_18.to_er7()) == ("2.5.1", "UNICODE UTF-8")


def patient(folder: Path, **attributes: Any) -> Any:
    return parsed(
        message(report(folder, **attributes), observed(), ENVELOPE)
    ).oru_r01_patient_result.oru_r01_patient.pid


def test_the_patient_is_the_reports(tmp_path: Path) -> None:
    pid = patient(
        tmp_path,
        PatientID="A|1",
        IssuerOfPatientID="CITY",
        PatientName="Made^Up^Of^Dr^Jr=洪^吉洞=홍^길동",
        PatientBirthDate="19600102",
        PatientSex="F",
    )
    assert pid.pid_3.to_er7() == "A\\F\\1^^^CITY^PI"
    assert pid.to_er7().split("|")[5] == "Made^Up^Of^Jr^Dr^^L^A~洪^吉洞^^^^^L^I~홍^길동^^^^^L^P"
    assert (pid.pid_7.to_er7(), pid.pid_8.to_er7()) == ("19600102", "F")


def test_odd_values_of_a_source_break_no_message(tmp_path: Path) -> None:
    pid = patient(tmp_path, PatientBirthDate="1960", PatientSex="", PatientName="", PatientID="", AccessionNumber="")
    assert (pid.pid_7.to_er7(), pid.pid_8.to_er7()) == ("", "U")
    assert pid.to_er7().split("|")[3::2][:2] == ["^^^^PI", "^^^^^^U"]


def test_the_catalogue_knows_the_accession_number_where_the_report_does_not(tmp_path: Path) -> None:
    content = message(report(tmp_path, AccessionNumber=""), observed(), ENVELOPE)
    assert "|FROM-CATALOGUE|" in content


def test_no_text_can_begin_a_segment_or_a_field() -> None:
    assert escaped("a\rMSH|b^c&d~e\\f\x1c") == "a MSH\\F\\b\\S\\c\\T\\d\\R\\e\\E\\f"


def test_a_report_that_is_gone(tmp_path: Path) -> None:
    with pytest.raises(Missing, match="gone"):
        message(tmp_path / "none.dcm", observed(), ENVELOPE)


def test_what_is_no_message_is_not_sent(tmp_path: Path) -> None:
    whole = message(report(tmp_path), observed(), ENVELOPE)
    without_order = "\r".join(line for line in whole.split("\r") if not line.startswith("OBR"))
    assert problem(without_order) == "ValidationError"
    assert problem("garbage") != ""


def test_without_the_library_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observation_message, "find_spec", lambda name: None)
    with pytest.raises(Missing, match=r"petite-curie\[hl7\]"):
        problem("MSH")


def test_reading_the_report_leaves_no_warning(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    message(report(tmp_path, PatientBirthDate="not-a-date"), observed(), ENVELOPE)
    assert not recwarn.list
