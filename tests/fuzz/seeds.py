"""Where the fuzzer starts: a few small inputs of every kind, made by the same peers that the tests use."""

from __future__ import annotations

from pathlib import Path

from dicom_nodes.contexts import IAN, MPPS, STORAGE_COMMITMENT
from dicom_nodes.message import Message
from tests import raw_peer
from tests.fuzz.targets import ASSOCIATION, DECODERS, FILE_HEAD, FRAMED, MEDIA_TYPE, MESSAGE, STOW, TARGETS
from tests.raw_peer import C_ECHO, C_STORE, COMMAND, CT, EXPLICIT, LAST, MR, VERIFICATION, command, data, fragment, pdu
from tests.web_peer import body, instance

STORE = fragment(1, COMMAND | LAST, command(C_STORE, 7, MR, "1.2.3"))
ECHO = data(fragment(5, COMMAND | LAST, command(C_ECHO, 1, VERIFICATION, dataset=False)))
REQUEST = raw_peer.request(
    [(1, MR, [EXPLICIT, raw_peer.IMPLICIT]), (3, VERIFICATION, [EXPLICIT])],
    more=[raw_peer.role(MR, True, True)],
)
STUDY = b"\x08\0\x60\0CS\2\0MR" + b"\x20\0\x0d\0UI\4\x001.5\0"
ITEM = b"\xfe\xff\0\xe0\xff\xff\xff\xff\xfe\xff\x0d\xe0\0\0\0\0"
NESTED = b"\x08\0\x50\x12SQ\0\0\xff\xff\xff\xff" + ITEM + b"\xfe\xff\xdd\xe0\0\0\0\0"
NOTE = Message("N-CREATE", MPPS, "1.2.3", None, EXPLICIT, "SCANNER", "10.0.0.1", "2026-01-01T00:00:00+00:00", b"x")
# all at once; told to stop before, after one piece; in pieces of 7 bytes; loses its place; deaf; resets
STARTS = (b"\0\0", b"\0\1", b"\0\2", b"\7\0", b"\5\x22", b"\0\x40", b"\0\x80")
IDENTITY = b"\x58\0\0\x09\1\1\0\3bob\0\0\x53\0\0\4\0\1\0\1"  # a user identity, asynchronous operations


def _with_identity() -> bytes:
    """Return a request whose user information, its last item, has more in it."""
    at = REQUEST.index(b"\x50\0", 74)
    length = int.from_bytes(REQUEST[at + 2 : at + 4], "big") + len(IDENTITY)
    return REQUEST[: at + 2] + length.to_bytes(2, "big") + REQUEST[at + 4 :] + IDENTITY


def _requests() -> list[bytes]:
    """Return whole associations' bytes after the A-ASSOCIATE-AC."""
    other = fragment(3, COMMAND | LAST, command(C_STORE, 8, CT, "1.2.4"))
    note = command(raw_peer.N_CREATE, 9, MPPS, "1.2.5")
    report = command(raw_peer.N_EVENT_REPORT, 10, STORAGE_COMMITMENT, "1.2.6", more=b"\0\0\2\x10\2\0\0\0\1\0")
    return [
        ECHO + pdu(raw_peer.RELEASE_RQ),
        data(STORE, fragment(1, LAST, STUDY)) + pdu(raw_peer.RELEASE_RQ),
        data(
            STORE,
            fragment(1, 0, b"one,"),
            other,
            fragment(3, 0, b"two,"),
            fragment(1, LAST, b"."),
            fragment(3, LAST, b"."),
        ),
        data(fragment(9, COMMAND | LAST, note)) + data(fragment(9, LAST, STUDY)) + pdu(raw_peer.ABORT),
        data(fragment(7, COMMAND | LAST, report), fragment(7, LAST, STUDY)) + pdu(raw_peer.RELEASE_RP),
        data(fragment(11, COMMAND | LAST, command(raw_peer.N_CREATE, 11, IAN, "1.2.7")), fragment(11, LAST, STUDY)),
        data(fragment(1, COMMAND | LAST, command(0x0FFF, 0, MR, dataset=False))) + ECHO,
        pdu(raw_peer.RELEASE_RQ) + pdu(raw_peer.RELEASE_RP),  # after our own request: they cross
        pdu(raw_peer.RELEASE_RP),
        data(STORE) + data(fragment(1, 0, bytes(240))) * 4,
        (data(STORE) + data(fragment(1, 0, bytes(240))) * 2 + data(fragment(1, LAST, bytes(240)))) * 3,
        data(STORE) + b"\4\0\xff\xff\xff\xff",
    ]


def seeds() -> list[bytes]:
    """Return the inputs; the first byte says which target."""
    whole = body([instance("1.2.3", STUDY), instance("1.2.4", NESTED + STUDY), b"no file"])
    found = [(DECODERS, REQUEST), (DECODERS, pdu(raw_peer.DATA, command(C_STORE, 7, MR, "1.2.3")))]
    found += [(DECODERS, _with_identity())]
    found += [(ASSOCIATION, start + one) for one in _requests() for start in STARTS]
    found += [(FRAMED, b"\0\0" + b"\0\xa3\0\0" + b"\1\xa3\0\0" + b"\0\0\0\3one" + b"\1\2\0\3two" + b"\0\2\0\3one")]
    found += [(FRAMED, b"\0\3" + b"\4\xe3\4\0031.2" + b"\4\2\0\4data" + b"\2\x83\1\0" + b"\0\1\0\5hello" * 9)]
    found += [(MESSAGE, NOTE.encode()), (MESSAGE, b'{"command":"N-SET"}\n')]
    found += [(STOW, bytes((size, bound)) + whole) for size in (0, 5) for bound in (0, 1)]
    found += [(FILE_HEAD, bytes((kind,)) + NESTED + STUDY) for kind in range(3)]
    found += [(FILE_HEAD, b"\3" + instance("1.2", STUDY)[132:])]
    found += [(MEDIA_TYPE, b'multipart/related; type="application/dicom"; boundary="a;b"')]
    return [bytes((TARGETS.index(target),)) + content for target, content in found]


def write_seeds(folder: Path) -> None:
    """Fill an empty corpus."""
    folder.mkdir(parents=True, exist_ok=True)
    if not any(folder.iterdir()):
        for number, one in enumerate(seeds()):
            (folder / f"seed-{number:02}").write_bytes(one)
