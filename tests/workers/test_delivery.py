"""The outbox against a PACS that answers, lies, refuses or is away. Real associations on loopback."""

from __future__ import annotations

import hashlib
import socket
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset
from sqlalchemy import select, update

from appliance.catalogue import Catalogue, jobs, orders, outbox, overview
from appliance.catalogue.connection import now
from appliance.catalogue.jobs import NewResult
from appliance.catalogue.tables import outbox as outbox_table
from appliance.settings import Settings, parse
from dicom_nodes.demo_pacs import DemoPacs
from dicom_nodes.result_classes import LABEL_MAP
from dicom_nodes.spool import write_durably
from tests.appliance.catalogue.rows import queued_job
from tests.phantoms import MR, Phantom, part10, series
from tests.workers.parcels import CT, DESTINATION, SECONDARY_CAPTURE, by_result, happened, settings_for, waiting_job
from workers.delivery import Delivery, backoff_s

SETTINGS = """
[[destinations]]
name = "pacs"
ae_title = "PACS"
host = "127.0.0.1"
port = {port}
commitment = {commitment}
"""


@pytest.fixture
def settings(tmp_path: Path, free_port: int) -> Settings:
    return parse(SETTINGS.format(port=free_port, commitment="true"), tmp_path / "curie.toml")


@pytest.fixture
def pacs(tmp_path: Path, settings: Settings) -> Iterator[DemoPacs]:
    made = DemoPacs(tmp_path / "pacs", settings.destinations[0].port)
    made.start()
    yield made
    made.stop()


@pytest.fixture
def job(catalogue: Catalogue, settings: Settings) -> str:
    """A job whose two results wait in the outbox."""
    identity = queued_job(catalogue)
    results = []
    for role, ds in zip(("SEG", "SR"), series(Phantom(slices=2)), strict=True):
        content = part10(ds)
        write_durably(settings.results_dir / f"aa/{role}.dcm", content)
        digest = hashlib.sha256(content).hexdigest()
        results.append(NewResult(str(ds.SOPInstanceUID), MR, "1.2", role, f"aa/{role}.dcm", digest, len(content)))
    with catalogue.write() as connection:
        held = jobs.claim(connection, "w", now())
        assert held is not None
        record = {"engine": "e", "timings": {}, "findings": []}
        jobs.commit_results(connection, held, results, {"pacs": ("SEG", "SR")}, record, now())
    return identity


def rows(catalogue: Catalogue) -> list[Any]:
    with catalogue.read() as connection:
        return list(connection.execute(select(outbox_table).order_by(outbox_table.c.id)).all())


def states(catalogue: Catalogue) -> list[str]:
    return [row.state for row in rows(catalogue)]


def job_state(catalogue: Catalogue, job: str) -> str:
    with catalogue.read() as connection:
        return str(overview.job_record(connection, job)["state"])


def make_due(catalogue: Catalogue) -> None:
    with catalogue.write() as connection:
        connection.execute(update(outbox_table).values(due_at=now() - timedelta(seconds=1)))


def test_delivered_then_committed_then_completed(
    settings: Settings, catalogue: Catalogue, pacs: DemoPacs, job: str
) -> None:
    Delivery(settings, catalogue).step()
    assert states(catalogue) == ["committed", "committed"]
    assert job_state(catalogue, job) == "completed"
    for row in rows(catalogue):
        assert (pacs.folder / f"{row.sop_instance_uid}.dcm").exists()


def test_without_commitment_delivered_is_enough(
    tmp_path: Path, settings: Settings, catalogue: Catalogue, pacs: DemoPacs, job: str
) -> None:
    port = settings.destinations[0].port
    plain = parse(SETTINGS.format(port=port, commitment="false"), tmp_path / "curie.toml")
    Delivery(plain, catalogue).step()
    assert states(catalogue) == ["delivered", "delivered"]
    assert job_state(catalogue, job) == "completed"


def test_a_pacs_that_is_away_is_tried_again_and_gets_the_same_bytes(
    tmp_path: Path, settings: Settings, catalogue: Catalogue, job: str
) -> None:
    delivery = Delivery(settings, catalogue)
    delivery.step()
    first = rows(catalogue)
    assert [row.state for row in first] == ["waiting", "waiting"]
    assert "does not answer" in first[0].answer
    assert first[0].due_at > now() - timedelta(seconds=5)
    assert job_state(catalogue, job) == "delivering"
    pacs = DemoPacs(tmp_path / "pacs", settings.destinations[0].port)
    pacs.start()
    make_due(catalogue)
    delivery.step()
    pacs.stop()
    assert states(catalogue) == ["committed", "committed"]
    for row in rows(catalogue):
        held = (pacs.folder / f"{row.sop_instance_uid}.dcm").read_bytes()
        sent = next(p for p in settings.results_dir.rglob("*.dcm") if row.sop_instance_uid.encode() in p.read_bytes())
        assert held[-1000:] == sent.read_bytes()[-1000:]


def test_a_refusal_is_shown_and_retried_on_request(
    settings: Settings, catalogue: Catalogue, pacs: DemoPacs, job: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DemoPacs, "_on_store", lambda self, event: 0xA900)
    pacs.stop()
    pacs.start()
    Delivery(settings, catalogue).step()
    assert states(catalogue) == ["rejected", "rejected"]
    assert "0xA900" in rows(catalogue)[0].answer
    assert job_state(catalogue, job) == "failed"
    assert (happened(catalogue, "result_rejected"), happened(catalogue, "job_failed")) == (2, 1)
    monkeypatch.undo()
    pacs.stop()
    pacs.start()
    with catalogue.write() as connection:
        assert orders.retry(connection, job, "marie", now()) == "delivering"
    Delivery(settings, catalogue).step()
    assert job_state(catalogue, job) == "completed"


def test_out_of_resources_may_pass(
    settings: Settings, catalogue: Catalogue, pacs: DemoPacs, job: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DemoPacs, "_on_store", lambda self, event: 0xA700)
    pacs.stop()
    pacs.start()
    Delivery(settings, catalogue).step()
    assert states(catalogue) == ["waiting", "waiting"]
    assert job_state(catalogue, job) == "delivering"


def test_what_the_pacs_lost_is_sent_again(settings: Settings, catalogue: Catalogue, pacs: DemoPacs, job: str) -> None:
    store = DemoPacs._on_store
    lost: list[str] = []

    def forgetful(self: DemoPacs, event: Any) -> int:
        status = store(self, event)
        if not lost:
            lost.append(str(event.request.AffectedSOPInstanceUID))
            (self.folder / f"{lost[0]}.dcm").unlink()
        return status

    pacs.stop()
    pacs._on_store = forgetful.__get__(pacs)  # type: ignore[method-assign]
    pacs.start()
    delivery = Delivery(settings, catalogue)
    delivery.step()
    assert sorted(states(catalogue)) == ["committed", "waiting"]
    make_due(catalogue)
    delivery.step()
    assert states(catalogue) == ["committed", "committed"]
    assert job_state(catalogue, job) == "completed"


@pytest.mark.parametrize("lie", ["other transaction", "omits one", "adds one"])
def test_a_lying_report_is_not_believed(
    settings: Settings, catalogue: Catalogue, pacs: DemoPacs, job: str, monkeypatch: pytest.MonkeyPatch, lie: str
) -> None:
    honest = DemoPacs._report

    def lying(self: DemoPacs, request: Dataset) -> Dataset:
        report = honest(self, request)
        if lie == "other transaction":
            report.TransactionUID = "1.2.3.4"
        elif lie == "omits one":
            report.ReferencedSOPSequence = report.ReferencedSOPSequence[:1]
        else:
            extra = Dataset()
            extra.ReferencedSOPClassUID, extra.ReferencedSOPInstanceUID = MR, "1.2.3.4.5"
            report.ReferencedSOPSequence = [*report.ReferencedSOPSequence, extra]
        return report

    monkeypatch.setattr(DemoPacs, "_report", lying)
    Delivery(settings, catalogue).step()
    assert states(catalogue) == ["delivered", "delivered"]
    assert job_state(catalogue, job) == "delivering"


def test_a_changed_result_file_is_never_sent(
    settings: Settings, catalogue: Catalogue, pacs: DemoPacs, job: str
) -> None:
    (settings.results_dir / "aa/SEG.dcm").write_bytes(b"changed")
    Delivery(settings, catalogue).step()
    assert states(catalogue) == ["rejected", "committed"]
    assert "changed" in rows(catalogue)[0].answer


def test_the_wait_doubles_from_a_second_to_a_quarter_of_an_hour() -> None:
    waits = [backoff_s(tries) for tries in range(14)]
    assert waits[:4] == [1, 2, 4, 8]
    assert waits[-1] == 900
    assert backoff_s(10**6) == 900


def test_reports_of_unknown_transactions_change_nothing(
    settings: Settings, catalogue: Catalogue, pacs: DemoPacs, job: str
) -> None:
    with catalogue.write() as connection:
        outbox.add_report(connection, "9.9", "PACS", [("1.2", "1.3")], [], now())
    started = time.monotonic()
    Delivery(settings, catalogue).step()
    assert time.monotonic() - started < 30
    with catalogue.read() as connection:
        assert outbox.unread_reports(connection) == []


def test_a_pacs_that_takes_implicit_alone_gets_the_values(
    settings: Settings, catalogue: Catalogue, pacs: DemoPacs, job: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dicom_nodes.demo_pacs.SYNTAXES", ["1.2.840.10008.1.2"])
    pacs.stop()
    pacs.start()
    delivery = Delivery(settings, catalogue)
    delivery._send("pacs", delivery._due("pacs"))
    assert {row.answer for row in rows(catalogue)} == {"0x0000, as Implicit VR Little Endian: it takes no Explicit VR"}
    delivery.step()
    assert states(catalogue) == ["committed", "committed"]


def test_a_pacs_that_takes_none_of_it_refuses(
    settings: Settings, catalogue: Catalogue, pacs: DemoPacs, job: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dicom_nodes.demo_pacs.AllStoragePresentationContexts", [])
    monkeypatch.setattr("pynetdicom._config.UNRESTRICTED_STORAGE_SERVICE", False)  # a receiver's, if one ran here
    pacs.stop()
    pacs.start()
    Delivery(settings, catalogue).step()
    assert states(catalogue) == ["rejected", "rejected"]
    assert "accepts none of: MR Image Storage" in rows(catalogue)[0].answer


def test_a_missing_result_file_or_an_odd_report_stops_nothing_else(
    settings: Settings, catalogue: Catalogue, pacs: DemoPacs, job: str
) -> None:
    (settings.results_dir / "aa/SEG.dcm").unlink()
    Delivery(settings, catalogue).step()
    assert states(catalogue) == ["rejected", "committed"]


def test_a_report_to_an_earlier_request_still_counts(
    settings: Settings, catalogue: Catalogue, pacs: DemoPacs, job: str
) -> None:
    silent = DemoPacs(pacs.folder, pacs.port)
    asked: list[Dataset] = []
    silent._send = lambda requesting, calling, number, report: asked.append(report)  # type: ignore[method-assign]
    pacs.stop()
    silent.start()
    delivery = Delivery(settings, catalogue)
    delivery.step()
    make_due(catalogue)
    delivery.step()
    silent.stop()
    pacs.start()
    assert len(asked) == 2
    first = asked[0]
    stored = [(str(i.ReferencedSOPClassUID), str(i.ReferencedSOPInstanceUID)) for i in first.ReferencedSOPSequence]
    with catalogue.write() as connection:
        outbox.add_report(connection, str(first.TransactionUID), "PACS", stored, [], now())
    delivery.step()
    assert states(catalogue) == ["committed", "committed"]


# --- what a destination need not take ---

THREE = (("SEG", MR), ("SR", MR), ("SC", SECONDARY_CAPTURE))


def refusing(pacs: DemoPacs, monkeypatch: pytest.MonkeyPatch, sop_class: str) -> None:
    """Let the PACS accept no presentation context of a class."""
    from pynetdicom import AllStoragePresentationContexts

    left = [one for one in AllStoragePresentationContexts if one.abstract_syntax != sop_class]
    monkeypatch.setattr("dicom_nodes.demo_pacs.AllStoragePresentationContexts", left)
    monkeypatch.setattr("pynetdicom._config.UNRESTRICTED_STORAGE_SERVICE", False)
    pacs.stop()
    pacs.start()


def test_an_optional_class_that_is_not_accepted_is_withdrawn_and_the_job_is_completed(
    tmp_path: Path, free_port: int, catalogue: Catalogue, pacs: DemoPacs, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_for(tmp_path, free_port, 'results = ["SEG", "SR", "SC"]')
    job = waiting_job(catalogue, settings, THREE)
    refusing(pacs, monkeypatch, SECONDARY_CAPTURE)
    Delivery(settings, catalogue).step()
    assert by_result(catalogue) == {"0-SEG": "committed", "1-SR": "committed", "2-SC": "withdrawn"}
    assert job_state(catalogue, job) == "completed"
    with catalogue.read() as connection:
        found = {one["role"]: one["state"] for one in overview.results(connection, job)}
        assert outbox.counts(connection)["withdrawn"] == 1
    assert found == {"SEG": "committed", "SR": "committed", "SC": "withdrawn"}
    assert any("Secondary Capture" in row.answer for row in rows(catalogue))


def test_an_optional_object_that_is_refused_for_another_reason_is_rejected(
    tmp_path: Path, free_port: int, catalogue: Catalogue, pacs: DemoPacs
) -> None:
    settings = settings_for(tmp_path, free_port, 'results = ["SEG", "SR", "SC"]')
    job = waiting_job(catalogue, settings, THREE)
    store = pacs._on_store
    pacs.stop()
    pacs._on_store = lambda event: (  # type: ignore[method-assign]
        0xA900 if event.request.AffectedSOPClassUID == SECONDARY_CAPTURE else store(event)
    )
    pacs.start()
    Delivery(settings, catalogue).step()
    assert by_result(catalogue)["2-SC"] == "rejected"
    assert job_state(catalogue, job) == "failed"


def test_a_needed_class_that_is_not_accepted_fails_the_job(
    tmp_path: Path, free_port: int, catalogue: Catalogue, pacs: DemoPacs, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_for(tmp_path, free_port)
    job = waiting_job(catalogue, settings, (("SEG", CT), ("SR", MR)))
    refusing(pacs, monkeypatch, CT)
    Delivery(settings, catalogue).step()
    assert by_result(catalogue) == {"0-SEG": "rejected", "1-SR": "committed"}
    assert job_state(catalogue, job) == "failed"


def test_a_destination_that_takes_nothing_but_label_maps_or_none(
    tmp_path: Path, free_port: int, catalogue: Catalogue, pacs: DemoPacs, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_for(tmp_path, free_port, 'results = ["SEG", "SR", "LABELMAP"]')
    kinds = (("SR", MR), ("SEG", MR), ("SR", MR), ("LABELMAP", LABEL_MAP))
    variants = {0: "binary", 1: "binary", 2: "labelmap", 3: "labelmap"}
    job = waiting_job(catalogue, settings, kinds, variants=variants)
    refusing(pacs, monkeypatch, LABEL_MAP)
    Delivery(settings, catalogue).step()
    assert list(by_result(catalogue).values()) == ["committed", "committed", "withdrawn", "withdrawn"]
    assert job_state(catalogue, job) == "completed"
    with catalogue.read() as connection:
        (told,) = outbox.not_taken_by(connection)
    assert (told["role"], told["answer"]) == ("LABELMAP", "takes no label maps; segments are sent instead")


def test_a_result_that_goes_nowhere_is_withdrawn(
    tmp_path: Path, free_port: int, catalogue: Catalogue, pacs: DemoPacs
) -> None:
    settings = settings_for(tmp_path, free_port)
    job = waiting_job(catalogue, settings)
    with catalogue.write() as connection:
        outbox.withdraw(connection, job, "a test")
    Delivery(settings, catalogue).step()
    assert job_state(catalogue, job) == "completed"
    with catalogue.read() as connection:
        assert {one["state"] for one in overview.results(connection, job)} == {"withdrawn"}


def test_a_destination_that_hangs_keeps_no_other_waiting(
    tmp_path: Path, free_port: int, catalogue: Catalogue, pacs: DemoPacs
) -> None:
    hung = socket.create_server(("127.0.0.1", 0))  # takes the connection and says nothing
    port = hung.getsockname()[1]
    other = f'[[destinations]]\nname = "hung"\nae_title = "HUNG"\nhost = "127.0.0.1"\nport = {port}\n'
    text = other + DESTINATION.format(port=free_port, more="")
    settings = parse(text, tmp_path / "curie.toml")
    waiting_job(catalogue, settings)
    stop = threading.Event()
    running = threading.Thread(target=Delivery(settings, catalogue).run, args=(stop,))
    began = time.monotonic()
    running.start()
    try:
        while sorted(set(states(catalogue))) != ["committed", "waiting"]:
            assert time.monotonic() - began < 8, states(catalogue)
            time.sleep(0.1)
    finally:
        stop.set()
        running.join(20)
        hung.close()
    assert not running.is_alive()
