"""A large file is read in pieces and says the same; a disk in trouble is not the file's fault."""

from __future__ import annotations

from io import BufferedReader
from pathlib import Path

import pytest

from dicom_nodes import digest, instance_reader
from dicom_nodes.arrivals import FileKept
from dicom_nodes.instance_reader import read_instance
from tests.phantoms import Phantom, part10, series


def written(folder: Path, syntax: str) -> FileKept:
    (folder / "one.dcm").write_bytes(part10(series(Phantom(slices=1, rows=31, columns=33))[0], syntax))
    return FileKept("one.dcm", "association")


@pytest.mark.parametrize("syntax", ["implicit", "explicit", "big", "jls", "rle"])
def test_a_large_file_has_the_row_that_a_small_one_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, syntax: str
) -> None:
    file = written(tmp_path, syntax)
    whole, _ = read_instance(tmp_path, file)
    monkeypatch.setattr(instance_reader, "LARGE", 0)
    pieces, _ = read_instance(tmp_path, file)
    assert whole.state == "current"
    assert pieces == whole


def test_only_native_pixels_at_the_end_of_a_file_are_read_in_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(instance_reader, "LARGE", 0)
    seen: list[str | None] = []
    streamed = digest.streamed_pixel_digest

    def watched(*arguments: object) -> str | None:
        seen.append(streamed(*arguments))  # type: ignore[arg-type]
        return seen[-1]

    monkeypatch.setattr(instance_reader, "streamed_pixel_digest", watched)
    for syntax in ("explicit", "implicit", "big", "rle"):
        read_instance(tmp_path, written(tmp_path, syntax))
    with (tmp_path / "one.dcm").open("r+b") as out:
        out.write(part10(series(Phantom(slices=1))[0], "explicit") + b"\xfc\xff\xfc\xffOB\0\0\2\0\0\0\0\0")
    read_instance(tmp_path, FileKept("one.dcm"))
    assert [bool(one) for one in seen] == [True, True, False, False, False]


def test_a_disk_in_trouble_is_not_the_files_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = written(tmp_path, "explicit")

    def broken(stream: BufferedReader, **_: object) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr("dicom_nodes.header.dcmread", broken)
        with pytest.raises(OSError, match="Input/output"):
            read_instance(tmp_path, file)
    assert read_instance(tmp_path, file)[0].state == "current"
