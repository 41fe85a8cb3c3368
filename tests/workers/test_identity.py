"""What the PACS calls the patient decides whether a result leaves: a merge that has not reached us holds it back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset
from pynetdicom import AE, evt
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind, Verification  # type: ignore[attr-defined]
from sqlalchemy import select
from typer.testing import CliRunner

from appliance.catalogue import Catalogue
from appliance.catalogue.tables import outbox as outbox_table
from appliance.cli import app
from appliance.neighbours import check_destinations
from appliance.settings import Settings, load, parse
from dicom_nodes.result_classes import BY_ROLE
from tests.phantoms import MR
from tests.workers.test_delivery import job, make_due, settings, states  # noqa: F401 - fixtures
from workers.delivery import Delivery

FINDING = """
[[destinations]]
name = "pacs"
ae_title = "PACS"
host = "127.0.0.1"
port = {port}
find = true
"""


class FindingPacs:
    """A PACS that stores, and calls every study's patient as it is told."""

    def __init__(self, port: int, classes: tuple[str, ...] = (StudyRootQueryRetrieveInformationModelFind, MR)) -> None:
        self.patient: tuple[str, str] | None = None
        self.stored: list[str] = []
        ae = AE(ae_title="PACS")
        for one in classes:
            ae.add_supported_context(one)
        handlers = [(evt.EVT_C_FIND, self._find), (evt.EVT_C_STORE, self._store)]
        self.server = ae.start_server(("127.0.0.1", port), block=False, evt_handlers=handlers)

    def _find(self, event: Any) -> Iterator[tuple[int, Dataset]]:
        if self.patient:
            ds = Dataset()
            ds.QueryRetrieveLevel, ds.StudyInstanceUID = "STUDY", event.identifier.StudyInstanceUID
            ds.PatientID, ds.PatientName = self.patient
            yield 0xFF00, ds

    def _store(self, event: Any) -> int:
        self.stored.append(event.request.AffectedSOPInstanceUID)
        return 0x0000


@pytest.fixture
def pacs(settings: Settings) -> Iterator[FindingPacs]:  # noqa: F811
    made = FindingPacs(settings.destinations[0].port or 0)
    yield made
    made.server.shutdown()


@pytest.fixture
def delivery(tmp_path: Path, settings: Settings, catalogue: Catalogue) -> Delivery:  # noqa: F811
    text = FINDING.format(port=settings.destinations[0].port)
    return Delivery(parse(text, tmp_path / "curie.toml"), catalogue)


@pytest.mark.parametrize("patient", [("PH-1", "PHANTOM^HEAD^^^"), None])
def test_the_same_patient_or_an_unknown_study_is_delivered(
    pacs: FindingPacs,
    delivery: Delivery,
    catalogue: Catalogue,
    job: str,  # noqa: F811
    patient: tuple[str, str] | None,
) -> None:
    pacs.patient = patient
    delivery.step()
    assert states(catalogue) == ["delivered", "delivered"]


@pytest.mark.parametrize("patient", [("OTHER", "Phantom^Head"), ("PH-1", "Phantom^Other")])
def test_another_patient_holds_the_results_back_until_the_pacs_agrees(
    pacs: FindingPacs,
    delivery: Delivery,
    catalogue: Catalogue,
    job: str,  # noqa: F811
    patient: tuple[str, str],
) -> None:
    pacs.patient = patient
    delivery.step()
    assert states(catalogue) == ["waiting", "waiting"]
    assert pacs.stored == []
    with catalogue.read() as connection:
        answers = set(connection.execute(select(outbox_table.c.answer)).scalars())
    assert "another Patient ID or name" in answers.pop()
    assert "OTHER" not in str(answers)
    pacs.patient = ("PH-1", "Phantom^Head")
    make_due(catalogue)
    delivery.step()
    assert states(catalogue) == ["delivered", "delivered"]


def test_a_pacs_that_refuses_our_questions_lets_results_wait(
    settings: Settings,  # noqa: F811
    delivery: Delivery,
    catalogue: Catalogue,
    job: str,  # noqa: F811
) -> None:
    port = settings.destinations[0].port
    deaf = FindingPacs(port, (MR,))
    delivery.step()
    deaf.server.shutdown()
    assert states(catalogue) == ["waiting", "waiting"]
    with catalogue.read() as connection:
        answers = list(connection.execute(select(outbox_table.c.answer)).scalars())
    assert answers[0].endswith("FIND. Let the PACS accept C-FIND from CURIE, or set find = false")
    listens = FindingPacs(port)
    make_due(catalogue)
    delivery.step()
    listens.server.shutdown()
    assert states(catalogue) == ["delivered", "delivered"]


@pytest.mark.parametrize("answers", [True, False])
def test_doctor_and_destinations_test_ask_where_find_is_true(tmp_path: Path, free_port: int, answers: bool) -> None:
    file = tmp_path / "curie.toml"
    file.write_text(FINDING.format(port=free_port) + "commitment = false\n")
    classes = (Verification, BY_ROLE["SEG"], BY_ROLE["SR"])
    pacs = FindingPacs(free_port, (*classes, StudyRootQueryRetrieveInformationModelFind) if answers else classes)
    told = CliRunner().invoke(app, ["destinations", "test", "--config", str(file)])
    there, asked = check_destinations(load(file))
    pacs.server.shutdown()
    assert (there.ok, asked.ok, told.exit_code) == (True, answers, int(not answers)), told.output
    assert answers or asked.remedy.startswith("Let the PACS accept C-FIND from CURIE, or set find = false")
    assert ("answers C-FIND" in told.output) is answers
    assert ("or set find = false" in " ".join(told.output.split())) is not answers
