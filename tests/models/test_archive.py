"""A folder or .zip becomes plain files of our own, or is refused in one line; nothing else is touched."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from appliance.errors import Missing, PackageRefused
from models.archive import unpacked


def zipped(*members: tuple[str, str], how: int = zipfile.ZIP_DEFLATED) -> bytearray:
    """Return the bytes of a .zip."""
    raw = io.BytesIO()
    with zipfile.ZipFile(raw, "w", how) as archive:
        for name, text in members:
            archive.writestr(name, text)
    return bytearray(raw.getvalue())


def spoilt(raw: bytearray, name: bytes, count: int = 6) -> bytearray:
    """Return the .zip with the first bytes of a member's content overwritten."""
    at = raw.find(name) + len(name)
    raw[at : at + count] = b"\xff" * count
    return raw


ZIPS: list[tuple[bytes, str]] = [
    (spoilt(zipped(("card.md", "hello " * 999)), b"card.md"), "cannot be unpacked as a .zip"),
    (zipped(("card.md", "hello " * 999))[:-40], "BadZipFile"),
    (zipped(("a" * 300, "1")), "File name too long"),
    (zipped(("a", "1"), ("a/b", "2")), "a: is a file and a folder in the .zip"),
    (zipped(("a/b/c", "1"), ("a/b", "2")), "a/b: is a file and a folder in the .zip"),
    (zipped(("card.md", "x" * 99), how=zipfile.ZIP_LZMA), "neither stored nor deflated"),
    (zipped(("card.md", "x" * 99), how=zipfile.ZIP_BZIP2), "neither stored nor deflated"),
    (zipped(("../x", "1")), "must be relative"),
]


@pytest.mark.parametrize(("raw", "words"), ZIPS, ids=[str(n) for n in range(len(ZIPS))])
def test_a_damaged_or_odd_zip_is_refused_in_one_line(tmp_path: Path, raw: bytes, words: str) -> None:
    source = tmp_path / "package.zip"
    source.write_bytes(raw)
    with pytest.raises(PackageRefused) as refusal, unpacked(source, tmp_path / "staging"):
        pass
    assert words in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert list((tmp_path / "staging").glob("*")) == []


def test_a_folder_is_copied_and_the_copy_removed(tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "golden").mkdir(parents=True)
    (source / "golden" / "case").write_bytes(b"123")
    with unpacked(source, tmp_path / "staging") as folder:
        (source / "golden" / "case").write_bytes(b"4")
        assert (folder / "golden" / "case").read_bytes() == b"123"
    assert list((tmp_path / "staging").iterdir()) == []


FOLDERS: list[tuple[Callable[[Path], object], str]] = [
    (lambda folder: (folder / "card.md").symlink_to("/etc/passwd"), "card.md: links"),
    (lambda folder: (folder / "golden").symlink_to("/etc"), "golden: links"),
    (lambda folder: os.mkfifo(folder / "pipe"), "pipe: links and devices"),
    (lambda folder: [(folder / f"{n}").touch() for n in range(1001)], "at most 1000 files"),
    (lambda folder: (folder / "big").write_bytes(bytes(100)), "big: a package has at most"),
]


@pytest.mark.parametrize(("make", "words"), FOLDERS, ids=[words for _, words in FOLDERS])
def test_a_folder_with_other_than_plain_files_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[Path], object], words: str
) -> None:
    monkeypatch.setattr("models.archive.MAX_BYTES", 99)
    source = tmp_path / "source"
    source.mkdir()
    make(source)
    with pytest.raises(PackageRefused, match=words), unpacked(source, tmp_path / "staging"):
        pass
    assert list((tmp_path / "staging").iterdir()) == []


def test_what_is_not_there_is_missing(tmp_path: Path) -> None:
    with pytest.raises(Missing, match="there is no package"), unpacked(tmp_path / "no", tmp_path / "staging"):
        pass
