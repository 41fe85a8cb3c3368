"""The listening AE, asked by a real peer over a real socket."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset
from pynetdicom import AE, build_context, build_role
from pynetdicom.sop_class import StorageCommitmentPushModel, Verification  # type: ignore[attr-defined]
from sqlalchemy import select

from appliance.catalogue import Catalogue, outbox
from appliance.catalogue.tables import association, instance
from appliance.errors import Missing
from appliance.settings import parse
from dicom_nodes.receiver import Receiver
from tests.phantoms import MR, SYNTAXES, Phantom, part10, series

PRIVATE_CLASS = "1.3.46.670589.11.0.0.12.1"
DEFLATED = "1.2.840.10008.1.2.1.99"
SETTINGS = """
[receiver]
host = "127.0.0.1"
port = {port}
{more}
[[sources]]
ae_title = "SCANNER"
hosts = ["127.0.0.0/8"]
[[sources]]
ae_title = "ELSEWHERE"
hosts = ["10.0.0.0/8"]
[[destinations]]
name = "pacs"
ae_title = "PACS"
host = "127.0.0.1"
"""


@pytest.fixture
def start(catalogue: Catalogue, tmp_path: Path, free_port: int) -> Iterator[Callable[..., Receiver]]:
    running: list[Receiver] = []

    def started(more: str = "", spool: str = "reserve_gb = 0") -> Receiver:
        text = SETTINGS.format(port=free_port, more=more) + f"[spool]\n{spool}\n"
        receiver = Receiver(parse(text, tmp_path / "curie.toml"), catalogue)
        receiver.start()
        running.append(receiver)
        return receiver

    yield started
    for receiver in running:
        receiver.stop()


def call(receiver: Receiver, contexts: list[Any], calling: str = "SCANNER", called: str = "CURIE", **more: Any) -> Any:
    ae = AE(ae_title=calling)
    place = receiver.settings.receiver
    return ae.associate(place.host, place.port, contexts=contexts, ae_title=called, **more)


def store(receiver: Receiver, objects: list[Dataset], syntax: str = "explicit") -> list[int]:
    peer = call(receiver, [build_context(MR, SYNTAXES[syntax])])
    assert peer.is_established
    statuses = []
    for number, ds in enumerate(objects):
        path = receiver.spool.folder.parent / f"{number}.dcm"
        path.write_bytes(part10(ds, syntax))
        statuses.append(peer.send_c_store(path).Status)
    peer.release()
    return statuses


def rows(receiver: Receiver, table: Any) -> list[Any]:
    receiver.indexer.close()
    with receiver.catalogue.read() as connection:
        return list(connection.execute(select(table)).all())


@pytest.mark.parametrize("syntax", ["implicit", "explicit", "big", "j2k", "rle", "jls"])
def test_bytes_are_kept_as_received_in_every_syntax(start: Callable[..., Receiver], syntax: str) -> None:
    receiver = start()
    images = series(Phantom(slices=3))
    assert store(receiver, images, syntax) == [0, 0, 0]
    kept = {row.sop_instance_uid: row for row in rows(receiver, instance)}
    for ds in images:
        row = kept[str(ds.SOPInstanceUID)]
        assert row.transfer_syntax_uid == SYNTAXES[syntax]
        sent = part10(ds, syntax)
        body = (receiver.spool.folder / row.path).read_bytes()
        tail = sent[sent.index(b"\x08\x00", 132 + 60) :][-2000:] if syntax != "big" else sent[-2000:]
        assert body.endswith(tail)


def test_an_association_is_recorded_and_ended(start: Callable[..., Receiver]) -> None:
    receiver = start()
    store(receiver, series(Phantom(slices=1)))
    (row,) = rows(receiver, association)
    assert (row.ae_title, row.aborted) == ("SCANNER", 0)
    assert row.ended_at is not None


def test_an_aborted_association_keeps_what_was_acknowledged(start: Callable[..., Receiver]) -> None:
    receiver = start()
    peer = call(receiver, [build_context(MR, SYNTAXES["implicit"])])
    ds = series(Phantom(slices=1))[0]
    path = receiver.spool.folder.parent / "x.dcm"
    path.write_bytes(part10(ds, "implicit"))
    assert peer.send_c_store(path).Status == 0
    peer.abort()
    import time

    time.sleep(0.5)
    (row,) = rows(receiver, association)
    assert row.aborted == 1
    assert len(rows(receiver, instance)) == 1


def test_private_classes_are_taken_and_deflated_is_not(start: Callable[..., Receiver]) -> None:
    receiver = start()
    contexts = [build_context(PRIVATE_CLASS), build_context(MR, [DEFLATED]), build_context(Verification)]
    peer = call(receiver, contexts)
    accepted = {str(context.abstract_syntax) for context in peer.accepted_contexts}
    peer.release()
    assert accepted == {PRIVATE_CLASS, "1.2.840.10008.1.1"}


@pytest.mark.parametrize(
    ("calling", "called", "reason"),
    [("STRANGER", "CURIE", 3), ("ELSEWHERE", "CURIE", 3), ("SCANNER", "OTHER", 7)],
)
def test_strangers_and_wrong_titles_are_refused(
    start: Callable[..., Receiver], calling: str, called: str, reason: int
) -> None:
    receiver = start()
    peer = call(receiver, [build_context(Verification)], calling, called)
    assert peer.is_rejected
    assert peer.acceptor.primitive.diagnostic == reason


def test_strangers_are_taken_where_the_settings_say_so(start: Callable[..., Receiver]) -> None:
    receiver = start('unknown_sources = "accept"')
    peer = call(receiver, [build_context(MR)], "STRANGER")
    assert len(peer.accepted_contexts) == 1
    peer.release()
    elsewhere = call(receiver, [build_context(MR)], "ELSEWHERE")
    assert elsewhere.is_rejected, "a listed source keeps its addresses"


def test_a_destination_may_verify_and_report_but_not_store(start: Callable[..., Receiver]) -> None:
    receiver = start()
    role = build_role(StorageCommitmentPushModel, scp_role=True)
    contexts = [build_context(Verification), build_context(MR), build_context(StorageCommitmentPushModel)]
    peer = call(receiver, contexts, "PACS", ext_neg=[role])
    accepted = {str(context.abstract_syntax) for context in peer.accepted_contexts}
    assert accepted == {"1.2.840.10008.1.1", "1.2.840.10008.1.20.1"}
    assert peer.send_c_echo().Status == 0
    report = Dataset()
    report.TransactionUID = "1.2.3"
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = "1.2", "1.3"
    report.ReferencedSOPSequence = [item]
    status, _ = peer.send_n_event_report(report, 1, StorageCommitmentPushModel, "1.2.840.10008.1.20.1.1")
    peer.release()
    assert status.Status == 0
    with receiver.catalogue.read() as connection:
        (kept,) = outbox.unread_reports(connection)
    assert (kept.transaction_uid, kept.ae_title, kept.stored) == ("1.2.3", "PACS", [["1.2", "1.3"]])


def test_too_many_associations_of_one_source_are_refused(start: Callable[..., Receiver]) -> None:
    receiver = start("max_associations_per_source = 2")
    open_ones = [call(receiver, [build_context(MR)]) for _ in range(2)]
    third = call(receiver, [build_context(MR)])
    assert third.is_rejected
    for one in open_ones:
        one.release()


def test_low_disk_refuses_associations_and_instances(start: Callable[..., Receiver]) -> None:
    receiver = start()
    peer = call(receiver, [build_context(MR, SYNTAXES["explicit"])])
    receiver.spool.reserve_bytes = 10**18
    path = receiver.spool.folder.parent / "x.dcm"
    path.write_bytes(part10(series(Phantom(slices=1))[0]))
    assert peer.send_c_store(path).Status == 0xA700
    peer.release()
    assert call(receiver, [build_context(MR)]).is_rejected
    assert receiver.refused
    assert rows(receiver, instance) == []


def test_a_taken_port_is_one_line(start: Callable[..., Receiver], catalogue: Catalogue) -> None:
    receiver = start()
    with pytest.raises(Missing, match=r"port \d+.*receiver\.port"):
        Receiver(receiver.settings, catalogue)._listen()
