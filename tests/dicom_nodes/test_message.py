"""Acknowledged messages: kept and read again byte for byte, whatever a peer put into them."""

from __future__ import annotations

import zlib
from pathlib import Path

import pytest
from pydicom import Dataset

from dicom_nodes import message
from dicom_nodes.message import Message, read_dataset_of, read_message
from tests.written import written

SYNTAXES = {
    "1.2.840.10008.1.2": (True, True),
    "1.2.840.10008.1.2.1": (False, True),
    "1.2.840.10008.1.2.2": (False, False),
}


def told(dataset: bytes = b"", syntax: str = "1.2.840.10008.1.2.1") -> Message:
    return Message(
        "N-CREATE", "1.2.840.10008.5.1.4.33", "1.2.3", None, syntax, "PACS", "h", "2026-01-01T00:00:00Z", dataset
    )


@pytest.mark.parametrize("dataset", [b"", b"\n", b"\0\n{}\n\xff" * 99])
def test_a_message_is_read_as_it_was_written(dataset: bytes) -> None:
    report = Message("N-EVENT-REPORT", "1", "2", 1, "3", "PÄCS\n", "h", "t", dataset)
    for one in (told(dataset), report):
        assert Message.decode(one.encode()) == one
        assert one.encode().endswith(b"\n" + dataset)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n",
        b"[]\n",
        b"{}\n",
        told().encode().rstrip(b"\n"),
        told().encode().replace(b"null", b'"1"'),
        told().encode().replace(b"null", b"true"),
        told().encode().replace(b'"PACS"', b"7"),
        told().encode().replace(b'"command"', b'"commande"'),
        b"\xff" + told().encode(),
        b"[" * 100_000 + b"\n",
    ],
)
def test_what_is_no_message_is_a_value_error(content: bytes) -> None:
    with pytest.raises(ValueError, match="first line"):
        Message.decode(content)


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_datasets_of_the_uncompressed_syntaxes_are_read(syntax: str) -> None:
    ds = Dataset()
    ds.StudyInstanceUID = "1.2.3"
    content = written(ds, *SYNTAXES[syntax])
    assert read_dataset_of(told(content, syntax)).StudyInstanceUID == "1.2.3"


def test_a_deflated_dataset_is_not_inflated() -> None:
    deflated = zlib.compress(b"\0" * 1000)
    with pytest.raises(ValueError, match="transfer syntax"):
        read_dataset_of(told(deflated, "1.2.840.10008.1.2.1.99"))


def test_a_dataset_nested_too_deep_is_a_value_error() -> None:
    sequence = b"\x08\x00\x99\x11SQ\0\0\xff\xff\xff\xff" + b"\xfe\xff\x00\xe0\xff\xff\xff\xff"
    with pytest.raises(ValueError, match="cannot be read"):
        read_dataset_of(told(sequence * 5000))


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "one").write_bytes(told(bytes(100)).encode())
    assert read_message(tmp_path, "one") == told(bytes(100))
    monkeypatch.setattr(message, "LARGEST_BYTES", 99)
    with pytest.raises(ValueError, match="larger"):
        read_message(tmp_path, "one")
