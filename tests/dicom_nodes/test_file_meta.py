"""The first bytes of a Part 10 file, against pydicom as the reference, cut and lying."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.errors import InstanceRefused
from dicom_nodes.file_meta import read_meta, study_of
from dicom_nodes.services import Accepted, file_head
from tests.phantoms import MR, SYNTAXES, Phantom, part10, series
from tests.raw_peer import EXPLICIT, IMPLICIT

HEAD = file_head(Accepted(MR, EXPLICIT), "1.2.3")
STUDY = b"\x20\0\x0d\0UI\4\x001.5\0"
AFTER = b"\x20\0\x10\0SH\2\x001 "


@pytest.mark.parametrize("syntax", sorted(SYNTAXES))
@pytest.mark.parametrize("undefined", [False, True])
def test_real_files_say_what_they_are(syntax: str, undefined: bool) -> None:
    ds = series(Phantom(slices=1))[0]
    sent = part10(ds, syntax, undefined_lengths=undefined)
    meta = read_meta(sent)
    assert meta is not None
    assert (meta.sop_class_uid, meta.sop_instance_uid) == (MR, ds.SOPInstanceUID)
    assert meta.transfer_syntax_uid == SYNTAXES[syntax]
    assert meta.length == 144 + int.from_bytes(sent[140:144], "little")
    assert study_of(sent[meta.length :], meta.transfer_syntax_uid) == ds.StudyInstanceUID


def test_a_head_that_is_cut_asks_for_more() -> None:
    for cut in range(len(HEAD)):
        assert read_meta(HEAD[:cut]) is None, cut
    assert read_meta(HEAD) == read_meta(HEAD + STUDY)


def test_a_data_set_that_is_cut_asks_for_more() -> None:
    for cut in range(len(STUDY) - 1):
        assert study_of(STUDY[:cut], EXPLICIT) is None, cut
    assert study_of(STUDY, EXPLICIT) == "1.5"
    assert study_of(AFTER, EXPLICIT) == ""


@pytest.mark.parametrize("length", [0, 7, 2**32 - 1, 10**6])
def test_a_group_length_that_lies_is_not_believed(length: int) -> None:
    lying = HEAD[:140] + struct.pack("<I", length) + HEAD[144:] + STUDY
    found = read_meta(lying)
    assert found is not None
    assert (found.sop_instance_uid, found.length) == ("1.2.3", len(HEAD))


@pytest.mark.parametrize(
    "sent",
    [
        b"GIF89a" + bytes(200),
        bytes(128) + b"DICX",
        bytes(128) + b"DICM" + AFTER,
        HEAD.replace(MR.encode(), bytes(len(MR))) + STUDY,
        bytes(128) + b"DICM\2\0\2\0\4\0\0\0" + b"1.2\0" + STUDY,  # Implicit VR
        HEAD.replace(b"1.2.3\0", b"\0\0\0\0\0\0") + STUDY,
    ],
)
def test_what_is_no_part_10_file_is_refused(sent: bytes) -> None:
    with pytest.raises(InstanceRefused):
        read_meta(sent)


def test_depth_is_bounded() -> None:
    deep = b"\x40\0\x55\xa7SQ\0\0\xff\xff\xff\xff\xfe\xff\0\xe0\xff\xff\xff\xff"
    assert study_of(b"\x08\0" + deep[2:] * 1, EXPLICIT) is None
    assert study_of((b"\x08\0" + deep[2:]) * 1000, EXPLICIT) == ""


@settings(max_examples=500, deadline=None, derandomize=True)
@given(st.binary(max_size=300), st.sampled_from([EXPLICIT, IMPLICIT, "1.2.840.10008.1.2.2"]))
def test_any_bytes_have_an_answer(content: bytes, syntax: str) -> None:
    assert study_of(content, syntax) is None or isinstance(study_of(content, syntax), str)
    try:
        read_meta(HEAD[:132] + content)
    except InstanceRefused:
        pass
