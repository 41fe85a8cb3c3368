"""The count that a PACS gives for a study, from a real association; odd answers are no counts."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from pydicom import Dataset
from pynetdicom import AE, evt
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind  # type: ignore[attr-defined]

from appliance.errors import Refused, Unreachable
from appliance.settings import Destination
from dicom_nodes.query import count_instances, patient_of, same_patient

Answers = Iterator[tuple[int, Dataset | None]]


def answer(study: str, count: object) -> Dataset:
    ds = Dataset()
    ds.QueryRetrieveLevel, ds.StudyInstanceUID = "STUDY", study
    if count is not None:
        ds.NumberOfStudyRelatedInstances = count
    return ds


@pytest.fixture
def pacs(free_port: int) -> Iterator[Callable[[Callable[[Any], Answers]], Destination]]:
    """Start a PACS that answers C-FIND as told."""
    servers: list[Any] = []

    def start(answers: Callable[[Any], Answers]) -> Destination:
        ae = AE(ae_title="PACS")
        ae.add_supported_context(StudyRootQueryRetrieveInformationModelFind)
        servers.append(ae.start_server(("127.0.0.1", free_port), block=False, evt_handlers=[(evt.EVT_C_FIND, answers)]))
        return Destination(name="pacs", ae_title="PACS", host="127.0.0.1", port=free_port, find=True)

    yield start
    for server in servers:
        server.shutdown()


def test_the_count_of_the_study_that_was_asked_for(pacs: Any) -> None:
    asked = []

    def answers(event: Any) -> Answers:
        asked.append(event.identifier)
        yield 0xFF00, answer("1.2.3", "192")
        yield 0xFF00, answer("1.2.4", "7")

    assert count_instances(pacs(answers), "CURIE", "1.2.3") == 192
    assert (asked[0].QueryRetrieveLevel, asked[0].StudyInstanceUID) == ("STUDY", "1.2.3")
    assert "PatientName" not in asked[0]


@pytest.mark.parametrize("count", [None, "", "0", "-5"])
def test_no_count_is_none(pacs: Any, count: object) -> None:
    def answers(event: Any) -> Answers:
        yield 0xFF00, answer("1.2.3", count)

    assert count_instances(pacs(answers), "CURIE", "1.2.3") is None


def test_a_study_that_the_pacs_does_not_know_has_no_count(pacs: Any) -> None:
    assert count_instances(pacs(lambda event: iter(())), "CURIE", "1.2.3") is None


def test_a_refusal_says_its_status(pacs: Any) -> None:
    def answers(event: Any) -> Answers:
        yield 0xA700, None

    with pytest.raises(Refused, match="0xA700"):
        count_instances(pacs(answers), "CURIE", "1.2.3")


def test_a_pacs_that_answers_without_end_is_left(pacs: Any) -> None:
    def answers(event: Any) -> Answers:
        for _ in range(1000):
            yield 0xFF00, answer("1.2.3", "5")

    with pytest.raises(Refused, match="many"):
        count_instances(pacs(answers), "CURIE", "1.2.3")


def test_a_pacs_that_is_away_is_unreachable_soon(free_port: int) -> None:
    start = time.monotonic()
    with pytest.raises(Unreachable):
        count_instances(Destination(name="p", ae_title="P", host="127.0.0.1", port=free_port), "CURIE", "1.2.3")
    assert time.monotonic() - start < 5


def test_whose_a_study_is_and_nothing_for_one_that_is_not_known(pacs: Any) -> None:
    def answers(event: Any) -> Answers:
        if event.identifier.StudyInstanceUID == "1.2.3":
            ds = answer("1.2.3", None)
            ds.SpecificCharacterSet, ds.PatientID, ds.PatientName = "ISO_IR 144", "P7", "Люксембург"
            yield 0xFF00, ds

    place = pacs(answers)
    assert patient_of(place, "CURIE", "1.2.3") == ("P7", "Люксембург")
    assert patient_of(place, "CURIE", "1.2.4") is None


@pytest.mark.parametrize(
    ("one", "two", "same"),
    [
        (("P7", "Doe^Jane"), ("P7", "DOE^JANE^^^"), True),
        (("P7", "Doe^Jane"), ("P7", "Doe ^ Jane"), True),
        (("P7", "Doe^Jane"), ("P8", "Doe^Jane"), False),
        (("P7", "Doe^Jane"), ("P7", "Roe^Jane"), False),
        (("P7", "Yamada^Tarou=山田^太郎"), ("P7", "YAMADA^TAROU=山田^太郎="), True),
    ],
)
def test_letter_case_and_empty_components_are_no_difference(one: Any, two: Any, same: bool) -> None:
    assert same_patient(one, two) is same
