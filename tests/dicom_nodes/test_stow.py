"""The second door, asked by real HTTP over real sockets: what is kept, what is answered, what is left behind."""

from __future__ import annotations

import os
import socket
import struct

import pytest

from dicom_nodes import stow_door
from dicom_nodes.arrivals import AssociationEnded, AssociationOpened, AssociationsAlive, FileKept
from tests.dicom_nodes.conftest import Second
from tests.dicom_nodes.test_dimse import parts
from tests.phantoms import Phantom, part10, series
from tests.raw_peer import CT, IMPLICIT, MR, RawPeer
from tests.web_peer import BOUNDARY, answer_of, body, head, instance, part, post, raw

STORED, FAILED, OTHERS = "00081199", "00081198", "0008119A"
DEFLATED = "1.2.840.10008.1.2.1.99"
FIND = "1.2.840.10008.5.1.4.1.2.2.1"


# --- what is kept ---


@pytest.mark.parametrize("syntax", ["implicit", "explicit", "big", "j2k"])
def test_an_instance_is_the_same_file_by_either_door(second: Second, syntax: str) -> None:
    ds = series(Phantom(slices=1))[0]
    sent = part10(ds, syntax)
    meta = 144 + int.from_bytes(sent[140:144], "little")
    answer = second.post(sent)
    assert answer.status == 200
    assert answer.uids(STORED) == [ds.SOPInstanceUID]
    assert answer.dataset["00081190"] == {"vr": "UR"}
    transfer_syntax = sent.partition(b"\2\0\x10\0UI")[2][2:].partition(b"\2\0")[0].rstrip(b"\0").decode()
    with RawPeer(second.door.address) as peer:
        peer.associate([(1, MR, [transfer_syntax])])
        assert peer.store(ds.SOPInstanceUID, sent[meta:]) == 0
        peer.release()
    kept = second.door.wait(
        lambda: len(found := [o for o in second.door.told if isinstance(o, FileKept)]) == 2 and found
    )
    assert kept[0].path == kept[1].path
    assert second.door.kept()[0].endswith(sent[meta:])


def test_a_request_is_told_like_an_association(second: Second) -> None:
    files = [instance(f"1.2.{number}", os.urandom(50_000)) for number in range(20)]
    answer = second.post(*files, path="/dicom-web/studies")
    assert (answer.status, len(answer.uids(STORED))) == (200, 20)
    opened, *kept, ended = second.door.told
    assert isinstance(opened, AssociationOpened)
    assert (opened.ae_title, opened.address) == ("SCANNER", "127.0.0.1")
    assert [one.association_id for one in kept if isinstance(one, FileKept)] == [opened.id] * 20
    assert ended == AssociationEnded(opened.id, aborted=False)
    assert second.door.kept() == files
    assert second.is_clean()


def test_a_long_request_is_said_to_live(second: Second, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stow_door, "ALIVE_S", 0.1)
    second.close()
    other = Second(second.door)
    connection = raw(other.port, head(1000), part(b""))
    second.door.wait(lambda: any(isinstance(one, AssociationsAlive) for one in second.door.told))
    connection.close()
    other.close()


def test_one_connection_may_bring_one_request_after_another(second: Second) -> None:
    content = body([instance("1.2.3")])
    connection = raw(second.port)
    for _ in range(3):
        connection.sendall(head(len(content)) + content)
        assert answer_of(connection).status == 200
    connection.close()
    assert len(second.door.kept()) == 3


def test_each_instance_has_its_own_answer(second: Second) -> None:
    files = [
        instance("1.2.1"),
        instance("1.2.2", syntax=DEFLATED),
        instance("../../etc/passwd"),
        instance("1.2\n3"),
        instance("1.2.3", sop_class=FIND),
        b"GIF89a" + bytes(500),
        b"",
        instance("1.2.4", content=b""),
        instance("1.2.5", sop_class="1.2/3"),
        instance("1.2.6", sop_class=CT, syntax=IMPLICIT),
        instance("1.2.7")[:150],
    ]
    answer = second.post(*files)
    assert answer.status == 202
    assert answer.uids(STORED) == ["1.2.1", "1.2.6"]
    assert answer.uids(FAILED) == ["1.2.2", "1.2.3", "1.2.4"]
    assert answer.reasons(FAILED) == [0xC122, 0x0122, 0xC000]
    assert answer.reasons(OTHERS) == [0xC000] * 6
    assert b"passwd" not in answer.content
    assert len(second.door.kept()) == 2
    assert second.ended().aborted is False
    assert second.is_clean()


def test_no_instance_stored_is_a_conflict(second: Second) -> None:
    answer = second.post(instance("1.2.1", syntax=DEFLATED))
    assert (answer.status, answer.uids(STORED)) == (409, [])


# --- how it comes ---


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_drops_and_chunks_are_the_bytes_that_were_sent(second: Second, size: int) -> None:
    files = [instance("1.2.1", f"\r\n--{BOUNDARY[:-1]}\r\n--{BOUNDARY}x".encode() * 5), instance("1.2.2", bytes(700))]
    content = body(files)
    chunks = [content[at : at + size] for at in range(0, len(content), size)]
    assert post(second.port, chunks).status == 200
    assert second.door.kept() == files


def test_part_headers_may_be_any_or_none(second: Second) -> None:
    headers = (
        "",
        "content-type: Application/DICOM; transfer-syntax=1.2.840.10008.1.2.1\r\n",
        "Content-Length: 7\r\nContent-Location: x\r\n",
        "Content-Type: application/octet-stream\r\n",
    )
    content = b"".join(part(instance(f"1.2.{n}"), one) for n, one in enumerate(headers)) + body([])
    answer = post(second.port, content)
    assert answer.uids(STORED) == ["1.2.0", "1.2.1", "1.2.2"]
    assert answer.reasons(OTHERS) == [0xC000]


def test_quoted_parameters_and_a_large_head_do(second: Second) -> None:
    quoted = f'multipart/related; boundary="{BOUNDARY}"; Type="application/dicom"'
    long = instance("1.2.3", b"\x09\0\x10\0UN\0\0" + struct.pack("<I", 90_000) + bytes(90_000))
    assert post(second.port, body([long]), headers={"Content-Type": quoted}).status == 200


@pytest.mark.parametrize("cut", [b"", f"\r\n--{BOUNDARY}".encode(), f"\r\n--{BOUNDARY}-".encode()])
def test_a_body_without_its_closing_boundary_acknowledges_nothing(second: Second, cut: bytes) -> None:
    answer = post(second.port, part(instance("1.2.1")) + part(instance("1.2.2")) + cut)
    assert answer.status == 400
    assert b"1.2.1" not in answer.content
    assert second.ended().aborted is True
    second.door.wait(second.is_clean)


def test_what_is_no_such_body_is_a_bad_request(second: Second) -> None:
    for sent in (b"no boundary", body([]), b"", b"\r\n--other\r\n\r\n"):
        assert post(second.port, sent).status == 400
    second.door.wait(second.is_clean)


@pytest.mark.parametrize("after", [20, 400, 200_000])
def test_an_abort_leaves_nothing(second: Second, after: int) -> None:
    content = part(instance("1.2.1")) + part(instance("1.2.2", bytes(300_000)))
    first = len(part(instance("1.2.1")))
    connection = raw(second.port, head(10**6), content[: first + after])
    second.door.wait(second.door.kept)
    if after > 100_000:
        second.door.wait(lambda: parts(second.door))
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()
    assert second.ended().aborted is True
    second.door.wait(second.is_clean)
    assert second.door.kept() == [instance("1.2.1")], "what was whole stays, as after C-STORE's 0x0000"


# --- of which study ---


def element(tag: int, vr: bytes, value: bytes) -> bytes:
    value += b"\0" * (len(value) % 2)
    start = struct.pack("<HH", tag >> 16, tag & 0xFFFF)
    if vr == b"SQ":
        return start + vr + b"\0\0" + struct.pack("<I", 0xFFFFFFFF) + value + b"\xfe\xff\xdd\xe0\0\0\0\0"
    return start + vr + struct.pack("<H", len(value)) + value


ITEM = b"\xfe\xff\0\xe0\xff\xff\xff\xff%s\xfe\xff\x0d\xe0\0\0\0\0"
OTHER_STUDY = element(0x00081250, b"SQ", ITEM % element(0x0020000D, b"UI", b"1.9"))  # Related Series Sequence


@pytest.mark.parametrize(
    ("study", "content", "status"),
    [
        ("1.5", element(0x0020000D, b"UI", b"1.5") + bytes(90_000), 200),
        ("1.5", OTHER_STUDY + element(0x0020000D, b"UI", b"1.5"), 200),
        ("1.9", OTHER_STUDY + element(0x0020000D, b"UI", b"1.5"), 409),
        ("1.9", OTHER_STUDY + element(0x00200010, b"SH", b"1"), 409),
        ("1.5", element(0x0020000D, b"UI", b"1.55"), 409),
        ("1.5", b"nonsense, and no data set", 409),
        ("1.5", element(0x00090010, b"UN", b"") + element(0x0020000D, b"UI", b"1.5"), 409),  # UN has a long length
        ("1.5", b"".join(element(0x00090010, b"LO", bytes(6000)) for _ in range(12)), 409),
    ],
)
def test_a_study_of_the_path_binds(second: Second, study: str, content: bytes, status: int) -> None:
    answer = second.post(instance("1.2.3", content), path=f"/studies/{study}")
    assert answer.status == status
    assert answer.reasons(FAILED) == ([0xA900] if status == 409 else [])
    assert len(second.door.kept()) == (status == 200)
    if status == 200:
        assert second.door.kept()[0].endswith(content)


def test_a_study_that_comes_late_in_drops_is_waited_for(second: Second) -> None:
    late = element(0x00090010, b"LO", bytes(3000)) + element(0x0020000D, b"UI", b"1.5")
    content = body([instance("1.2.3", late)])
    for path, status in (("/studies/1.5", 200), ("/studies/1.6", 409)):
        assert post(second.port, [content[at : at + 100] for at in range(0, len(content), 100)], path).status == status


def test_the_study_is_found_in_real_files_of_every_encoding(second: Second) -> None:
    ds = series(Phantom(slices=1))[0]
    for syntax in ("implicit", "explicit", "big", "j2k"):
        for undefined in (False, True):
            sent = part10(ds, syntax, undefined_lengths=undefined)
            assert second.post(sent, path=f"/studies/{ds.StudyInstanceUID}").status == 200
            assert second.post(sent, path="/studies/1.2.3").status == 409
