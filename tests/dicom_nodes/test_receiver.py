"""The listening AE, asked by a real peer over a real socket: negotiation, admission, limits."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset
from pynetdicom import AE, build_context, build_role
from pynetdicom.sop_class import StorageCommitmentPushModel, Verification  # type: ignore[attr-defined]

from appliance.errors import Missing
from dicom_nodes.arrivals import AssociationEnded, AssociationOpened, AssociationsAlive, FileKept
from dicom_nodes.receiver import listen
from dicom_nodes.sender import rejection
from tests.dicom_nodes.conftest import OpenDoor
from tests.phantoms import MR, SYNTAXES, Phantom, part10, series
from tests.raw_peer import EXPLICIT, RJ, RawPeer, request

PRIVATE_CLASS = "1.3.46.670589.11.0.0.12.1"
FIND = "1.2.840.10008.5.1.4.1.2.2.1"
DEFLATED = "1.2.840.10008.1.2.1.99"
Door = Callable[..., OpenDoor]


def call(door: OpenDoor, contexts: list[Any], calling: str = "SCANNER", called: str = "CURIE", **more: Any) -> Any:
    ae = AE(ae_title=calling)
    return ae.associate(*door.address, contexts=contexts, ae_title=called, **more)


def store(door: OpenDoor, objects: list[Dataset], folder: Path, syntax: str = "explicit") -> list[int]:
    peer = call(door, [build_context(MR, SYNTAXES[syntax])])
    assert peer.is_established
    statuses = []
    for number, ds in enumerate(objects):
        path = folder / f"{number}.dcm"
        path.write_bytes(part10(ds, syntax))
        statuses.append(peer.send_c_store(path).Status)
    peer.release()
    return statuses


@pytest.mark.parametrize("syntax", ["implicit", "explicit", "big", "j2k", "rle", "jls"])
def test_bytes_are_kept_as_received_in_every_syntax(open_door: Door, tmp_path: Path, syntax: str) -> None:
    door = open_door()
    images = series(Phantom(slices=3))
    assert store(door, images, tmp_path, syntax) == [0, 0, 0]
    for ds, kept in zip(images, door.wait(lambda: door.kept() if len(door.kept()) == 3 else None), strict=True):
        sent = part10(ds, syntax)
        body = sent[144 + int.from_bytes(sent[140:144], "little") :]
        assert kept.endswith(body)
        meta = kept[: len(kept) - len(body)]
        assert SYNTAXES[syntax].encode() in meta
        assert str(ds.SOPInstanceUID).encode() in meta


def test_an_association_is_told_from_opening_to_end(open_door: Door, tmp_path: Path) -> None:
    door = open_door()
    store(door, series(Phantom(slices=1)), tmp_path)
    door.wait(lambda: len(door.told) == 3)
    opened, kept, ended = door.told
    assert isinstance(opened, AssociationOpened)
    assert (opened.ae_title, opened.address) == ("SCANNER", "127.0.0.1")
    assert isinstance(kept, FileKept)
    assert kept.association_id == opened.id
    assert ended == AssociationEnded(opened.id, aborted=False)
    assert door.acceptor.ended == {"released": 1}


def test_an_open_association_is_said_to_live(open_door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dicom_nodes.acceptor.ALIVE_S", 0.1)
    door = open_door()
    peer = call(door, [build_context(MR)])
    door.wait(lambda: any(isinstance(one, AssociationsAlive) for one in door.told))
    peer.release()


def test_every_storage_class_is_taken_and_what_is_none_is_not(open_door: Door) -> None:
    door = open_door()
    contexts = [build_context(PRIVATE_CLASS), build_context(MR, [DEFLATED]), build_context(Verification)]
    peer = call(door, [*contexts, build_context(FIND)])
    answers = {str(one.abstract_syntax): one.result for one in peer.rejected_contexts + peer.accepted_contexts}
    peer.release()
    assert answers == {PRIVATE_CLASS: 0, MR: 4, "1.2.840.10008.1.1": 0, FIND: 3}


@pytest.mark.parametrize(
    ("calling", "called", "answer"),
    [("STRANGER", "CURIE", (1, 1, 3)), ("ELSEWHERE", "CURIE", (1, 1, 3)), ("SCANNER", "OTHER", (1, 1, 7))],
)
def test_strangers_and_wrong_titles_are_refused(
    open_door: Door, calling: str, called: str, answer: tuple[int, int, int]
) -> None:
    door = open_door()
    with RawPeer(door.address) as peer:
        peer.send(request([(1, MR, [EXPLICIT])], calling=calling, called=called))
        kind, body = peer.pdu()
    assert (kind, tuple(body[1:])) == (RJ, answer)
    assert sum(door.acceptor.refused.values()) == 1


def test_strangers_are_taken_where_the_settings_say_so(open_door: Door) -> None:
    door = open_door('unknown_sources = "accept"')
    peer = call(door, [build_context(MR)], "STRANGER")
    assert len(peer.accepted_contexts) == 1
    peer.release()
    elsewhere = call(door, [build_context(MR)], "ELSEWHERE")
    assert rejection(elsewhere), "a listed source keeps its addresses"


def test_a_destination_may_verify_and_report_but_not_store(open_door: Door) -> None:
    door = open_door()
    role = build_role(StorageCommitmentPushModel, scp_role=True)
    contexts = [build_context(Verification), build_context(MR), build_context(StorageCommitmentPushModel)]
    peer = call(door, contexts, "PACS", ext_neg=[role])
    accepted = {str(context.abstract_syntax) for context in peer.accepted_contexts}
    assert accepted == {"1.2.840.10008.1.1", "1.2.840.10008.1.20.1"}
    assert peer.send_c_echo().Status == 0
    report = Dataset()
    report.TransactionUID = "1.2.3"
    status, _ = peer.send_n_event_report(report, 1, StorageCommitmentPushModel, "1.2.840.10008.1.20.1.1")
    peer.release()
    assert status.Status == 0
    assert len(list(door.spool.messages())) == 1


def test_a_stranger_may_not_use_our_own_title_from_elsewhere(open_door: Door) -> None:
    door = open_door()
    ourselves = call(door, [build_context(Verification), build_context(MR)], "CURIE")
    assert [str(one.abstract_syntax) for one in ourselves.accepted_contexts] == ["1.2.840.10008.1.1"]
    ourselves.release()


def test_too_many_associations_of_one_source_are_refused_but_an_idle_one_gives_way(
    open_door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    door = open_door("max_associations_per_source = 2")
    monkeypatch.setattr("dicom_nodes.places.SILENT_S", 60.0)  # however long the calls take
    first, second = (call(door, [build_context(MR)]) for _ in range(2))
    assert rejection(call(door, [build_context(MR)]))
    assert door.acceptor.refused == {"too many associations of this source": 1}
    monkeypatch.setattr("dicom_nodes.places.SILENT_S", 0.0)  # the first two said nothing so far
    third = call(door, [build_context(MR)])
    assert third.is_established
    door.wait(lambda: first.is_aborted or second.is_aborted)
    door.wait(lambda: door.acceptor.ended.get("ended by us") == 1)
    third.release()


def test_low_disk_refuses_associations_and_instances(open_door: Door, tmp_path: Path) -> None:
    door = open_door()
    peer = call(door, [build_context(MR, SYNTAXES["explicit"])])
    door.spool.reserve_bytes = 10**18
    time.sleep(0.3)  # the free space is looked at a few times a second
    path = tmp_path / "x.dcm"
    path.write_bytes(part10(series(Phantom(slices=1))[0]))
    assert peer.send_c_store(path).Status == 0xA700
    peer.release()
    assert rejection(call(door, [build_context(MR)]))
    assert set(door.acceptor.refused) == {"free space is below spool.reserve_gb"}
    assert door.kept() == []


def test_a_taken_port_is_one_line(open_door: Door) -> None:
    door = open_door()
    with pytest.raises(Missing, match=r"port \d+.*receiver\.port"):
        listen(door.settings)
