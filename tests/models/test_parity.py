"""A golden case is small, plain arrays of known types, or refused in one line before memory is taken for it."""

from __future__ import annotations

import io
import resource
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from appliance.errors import PackageRefused
from models import parity
from models.gate import check_golden
from models.package import Package
from models.parity import GoldenCase, golden_case

GOOD: dict[str, np.ndarray] = {
    "input": np.zeros((2, 8, 8, 8), np.uint8),
    "low": np.zeros(2, np.float32),
    "high": np.ones(2, np.float32),
    "output": np.zeros((3, 2, 2, 2), np.float32),
    "labels": np.zeros((8, 8, 8), np.uint8),
}


def saved(path: Path, **changes: Any) -> None:
    np.savez_compressed(path, **{**GOOD, **changes})


def announced(path: Path, shape: tuple[int, ...], held: int) -> None:
    """Write a case whose labels announce `shape` and hold `held` zeros."""
    saved(path)
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})
    with zipfile.ZipFile(path) as archive:
        kept = {name: archive.read(name) for name in archive.namelist() if name != "labels.npy"}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, raw in kept.items():
            archive.writestr(name, raw)
        with archive.open("labels.npy", "w", force_zip64=True) as file:
            file.write(header.getvalue())
            for _ in range(held >> 20):
                file.write(bytes(1 << 20))


def damaged(path: Path) -> None:
    saved(path)
    raw = bytearray(path.read_bytes())
    at = raw.find(b"input.npy") + len("input.npy") + 20
    raw[at : at + 20] = b"\xff" * 20
    path.write_bytes(raw)


def one_array(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, np.zeros(3))


BROKEN: list[tuple[Callable[[Path], object], str]] = [
    (lambda path: path.write_bytes(b"PK\x03\x04garbage"), "BadZipFile"),
    (lambda path: path.write_bytes(b"garbage"), "BadZipFile"),
    (one_array, "BadZipFile"),
    (damaged, "not readable"),
    (lambda path: announced(path, (1024, 1024, 300), 300 << 20), "larger than"),
    (lambda path: announced(path, (1 << 20, 1 << 20, 4), 1 << 20), "announces more than it holds"),
    (lambda path: saved(path, more=np.zeros(3)), "holds other arrays"),
    (lambda path: saved(path, input=np.zeros((2, 8, 8, 8), np.float32)), "input is float32, not uint8"),
    (lambda path: saved(path, labels=np.zeros((8, 8, 8), np.int64)), "labels is int64"),
    (lambda path: saved(path, low=np.array(["a", "b"])), "low is <U1"),
    (lambda path: saved(path, low=np.array([None, None])), "announces more|allow_pickle"),
    (lambda path: saved(path, low=np.zeros(1, np.float32)), "one number for each channel"),
    (lambda path: saved(path, input=np.uint8(3)), "not .channels"),
    (lambda path: saved(path, input=np.zeros((2, 0, 8, 8), np.uint8)), "is empty"),
    (lambda path: saved(path, labels=np.zeros((8, 8), np.uint8)), "do not have the axes"),
    (lambda path: np.savez(path, input=GOOD["input"]), "KeyError"),
]


@pytest.mark.parametrize(("write", "words"), BROKEN, ids=[str(n) for n in range(len(BROKEN))])
def test_a_broken_golden_case_is_refused_in_one_line(
    tmp_path: Path, write: Callable[[Path], object], words: str
) -> None:
    path = tmp_path / "case-1.npz"
    write(path)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(PackageRefused, match=words) as refusal:
        golden_case(path)
    assert "\n" not in str(refusal.value)
    assert str(refusal.value).startswith("golden/case-1.npz: not readable")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 << 10  # KiB


def test_a_good_one_is_read(tmp_path: Path) -> None:
    saved(tmp_path / "case-1.npz")
    found = golden_case(tmp_path / "case-1.npz")
    assert (found.image.shape, found.output.shape) == ((2, 8, 8, 8), (3, 2, 2, 2))


def test_what_is_too_large_together_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(tmp_path / "case-1.npz")
    monkeypatch.setattr(parity, "MAX_CASE_BYTES", 1500)
    with pytest.raises(PackageRefused, match="larger than 1500 bytes together"):
        golden_case(tmp_path / "case-1.npz")


def test_a_golden_answer_has_as_many_channels_as_the_outputs_need(shipped: Package, golden: GoldenCase) -> None:
    check_golden(golden, shipped.manifest)
    fewer = GoldenCase("case-1", golden.image, golden.output[:7], golden.labels)
    with pytest.raises(PackageRefused, match="answers with 7 channels, its outputs need 8"):
        check_golden(fewer, shipped.manifest)
