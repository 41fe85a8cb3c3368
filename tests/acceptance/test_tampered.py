"""Tampered packages at the real command: each refused in one line, nothing of it kept, nothing in it ever run."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from models.package import MANIFEST, SIGNATURE, sign_package, write_manifest
from models.registry import ZOO
from models.signing import make_key, read_private_key, signed
from tests.acceptance.house import CURIE

pytestmark = pytest.mark.acceptance
SHIPPED = ZOO / "brain-structures"


class Canary:
    """Unpickled, it writes the canary file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"echo sang > {self.path}",)


@dataclass(frozen=True)
class House:
    """One appliance with a publisher it trusts, for all cases: none of them may change it."""

    folder: Path

    @property
    def canary(self) -> Path:
        return self.folder / "canary"

    def curie(self, *words: str) -> subprocess.CompletedProcess[str]:
        command = [*CURIE, *words, "--config", str(self.folder / "curie.toml")]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)

    def sign(self, package: Path, key: str = "publisher.key") -> None:
        """List and sign the files as they are."""
        sign_package(package, read_private_key(self.folder / key))

    def sign_listing(self, package: Path, listing: bytes) -> None:
        """Put a listing there and sign it, whatever it says."""
        (package / MANIFEST).write_bytes(listing)
        (package / SIGNATURE).write_bytes(signed(listing, b"", read_private_key(self.folder / "publisher.key")))

    def state(self) -> tuple[Any, list[str]]:
        """Return every version with its place, and every file below data_dir/packages."""
        told = self.curie("models", "list", "--json")
        assert told.returncode == 0, told.stderr
        packages = self.folder / "data" / "packages"
        files = sorted(str(path.relative_to(packages)) for path in packages.rglob("*") if path.is_file())
        return json.loads(told.stdout), files


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    folder = tmp_path_factory.mktemp("tampered")
    for name in ("publisher", "stranger"):
        make_key(folder / f"{name}.key")
    (folder / "curie.toml").write_text(
        f'[appliance]\ndata_dir = "data"\n[models]\ntrusted_keys = ["{folder}/publisher.pub"]\n'
    )
    built = House(folder)
    before = built.state()
    assert [(one["package"], one["state"]) for one in before[0] if one["package"] == "brain-structures"] == [
        ("brain-structures", "active")
    ]
    yield built
    assert built.state() == before, "something changed"
    assert not built.canary.exists()


@pytest.fixture
def package(house: House, tmp_path: Path) -> Path:
    """A good package, newer than the active one, signed by the publisher."""
    folder = Path(shutil.copytree(SHIPPED, tmp_path / "package"))
    redeclare(folder, version="9.9.0")
    house.sign(folder)
    return folder


def redeclare(folder: Path, **changes: Any) -> None:
    declared = json.loads((folder / "package.json").read_text()) | changes
    (folder / "package.json").write_text(json.dumps(declared))


def unsigned(house: House, package: Path) -> None:
    (package / SIGNATURE).unlink()


def altered_weights(house: House, package: Path) -> None:
    raw = bytearray((package / "weights.safetensors").read_bytes())
    raw[len(raw) // 2] ^= 1
    (package / "weights.safetensors").write_bytes(raw)


def altered_graph(house: House, package: Path) -> None:
    raw = bytearray((package / "model.onnx").read_bytes())
    raw[-1] ^= 1
    (package / "model.onnx").write_bytes(raw)


def altered_declaration(house: House, package: Path) -> None:
    redeclare(package, not_for_clinical_use=False)


def relisted_after_a_change(house: House, package: Path) -> None:
    redeclare(package, not_for_clinical_use=False)
    write_manifest(package)


def extra_file(house: House, package: Path) -> None:
    (package / "golden" / "note.txt").write_text("more")


def extra_code(house: House, package: Path) -> None:
    (package / "sitecustomize.py").write_text(f"open({str(house.canary)!r}, 'w').write('sang')\n")


def missing_file(house: House, package: Path) -> None:
    (package / "card.md").unlink()


def symlink(house: House, package: Path) -> None:
    (package / "card.md").rename(package.parent / "card.md")
    (package / "card.md").symlink_to(package.parent / "card.md")


def pipe_in_the_package(house: House, package: Path) -> None:
    os.mkfifo(package / "golden" / "case-2.npz")


def listed(package: Path, path: str) -> bytes:
    """Return the listing with its first path changed."""
    listing = json.loads((package / MANIFEST).read_bytes())
    listing["files"][0]["path"] = path
    listing["files"].sort(key=lambda one: one["path"])
    return json.dumps(listing, sort_keys=True, separators=(",", ":")).encode()


def absolute_path(house: House, package: Path) -> None:
    house.sign_listing(package, listed(package, "/etc/passwd"))


def path_upwards(house: House, package: Path) -> None:
    house.sign_listing(package, listed(package, "../canary"))


def foreign_key(house: House, package: Path) -> None:
    (package / SIGNATURE).unlink()
    house.sign(package, "stranger.key")


def signature_of_another(house: House, package: Path) -> None:
    redeclare(package, version="9.9.1")
    signature = (package / SIGNATURE).read_bytes()
    write_manifest(package)
    (package / SIGNATURE).write_bytes(signature)


def garbled_signature(house: House, package: Path) -> None:
    (package / SIGNATURE).write_text("ed25519 me trust-me\n")


def older_version(house: House, package: Path) -> None:
    redeclare(package, version="0.0.1")
    house.sign(package)


def pickle_for_weights(house: House, package: Path) -> None:
    (package / "weights.safetensors").write_bytes(pickle.dumps(Canary(house.canary)))
    house.sign(package)


def pickle_in_a_golden_case(house: House, package: Path) -> None:
    held = dict(np.load(package / "golden" / "case-1.npz"))
    held["labels"] = np.array([Canary(house.canary)], dtype=object)
    np.savez(package / "golden" / "case-1.npz", **held)
    house.sign(package)


def changed_graph(package: Path, change: Callable[[onnx.ModelProto], object]) -> None:
    model = onnx.load(str(package / "model.onnx"))
    change(model)
    (package / "model.onnx").write_bytes(model.SerializeToString())


def weights_outside(house: House, package: Path) -> None:
    def outside(model: onnx.ModelProto) -> None:
        tensor = model.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        entry = tensor.external_data.add()
        entry.key, entry.value = "location", "../../../../etc/passwd"

    changed_graph(package, outside)
    house.sign(package)


def foreign_operator(house: House, package: Path) -> None:
    def foreign(model: onnx.ModelProto) -> None:
        model.graph.node[0].domain = "com.evil"
        model.opset_import.add(domain="com.evil", version=1)

    changed_graph(package, foreign)
    house.sign(package)


def unknown_operation(house: House, package: Path) -> None:
    redeclare(package, postprocess=[{"op": "run", "file": "extra.py"}])
    write_manifest(package)
    house.sign_listing(package, (package / MANIFEST).read_bytes())


Spoil = Callable[[House, Path], None]
FOLDERS: list[tuple[Spoil, str]] = [
    (unsigned, "MANIFEST.sig: not there"),
    (altered_weights, "weights.safetensors: its SHA-256"),
    (altered_graph, "model.onnx: its SHA-256"),
    (altered_declaration, "package.json: "),
    (relisted_after_a_change, "is not one of this MANIFEST.json"),
    (extra_file, "golden/note.txt: there but not listed"),
    (extra_code, "sitecustomize.py: there but not listed"),
    (missing_file, "card.md: listed in MANIFEST.json but not there"),
    (symlink, "card.md: links and devices"),
    (pipe_in_the_package, "golden/case-2.npz: links and devices"),
    (absolute_path, "'/etc/passwd': a path"),
    (path_upwards, "'../canary': a path"),
    (foreign_key, "which models.trusted_keys does not name"),
    (signature_of_another, "is not one of this MANIFEST.json"),
    (garbled_signature, "MANIFEST.sig: not 1 to 8 lines"),
    (older_version, "--allow-rollback"),
    (pickle_for_weights, "weights.safetensors: not a safetensors file"),
    (pickle_in_a_golden_case, "golden"),
    (weights_outside, "model.onnx: keeps weights outside"),
    (foreign_operator, "com.evil"),
    (unknown_operation, "package.json: postprocess"),
]


def refused(house: House, source: Path, words: str) -> None:
    """Install what must be refused: exit code 1, one line, no canary."""
    ran = house.curie("models", "install", str(source))
    assert ran.returncode == 1, ran.stdout + ran.stderr
    assert ran.stdout == ""
    assert len(ran.stderr.splitlines()) == 1, ran.stderr
    assert words in ran.stderr
    assert not house.canary.exists()


@pytest.mark.parametrize(("spoil", "words"), FOLDERS, ids=[spoil.__name__ for spoil, _ in FOLDERS])
def test_a_tampered_folder_is_refused(house: House, package: Path, spoil: Spoil, words: str) -> None:
    spoil(house, package)
    refused(house, package, words)


def zipped(package: Path) -> zipfile.ZipFile:
    """Return an open archive with the members of a good package."""
    archive = zipfile.ZipFile(package.parent / "package.zip", "w", zipfile.ZIP_DEFLATED)
    for path in sorted(package.rglob("*")):
        if path.is_file():
            archive.write(path, path.relative_to(package))
    return archive


def upwards(archive: zipfile.ZipFile, house: House) -> None:
    archive.writestr("../" * 12 + str(house.canary).lstrip("/"), "sang")


def at_the_root(archive: zipfile.ZipFile, house: House) -> None:
    archive.writestr(str(house.canary), "sang")


def linked(archive: zipfile.ZipFile, house: House) -> None:
    link = zipfile.ZipInfo("golden/link")
    link.external_attr = 0o120777 << 16
    archive.writestr(link, str(house.folder))
    archive.writestr("golden/link/canary", "sang")


def bomb(archive: zipfile.ZipFile, house: House) -> None:
    archive.writestr("golden/case-2.npz", bytes(1 << 20))
    for member in archive.filelist:
        member.file_size = 2**32 - 2  # as a member of four gigabytes of zeros would say


def lying_bomb(archive: zipfile.ZipFile, house: House) -> None:
    archive.writestr("golden/case-2.npz", bytes(64 << 20))
    archive.filelist[-1].file_size = 10


def twice(archive: zipfile.ZipFile, house: House) -> None:
    with pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("card.md", "the second card")


ZIPS: list[tuple[Callable[[zipfile.ZipFile, House], None], str]] = [
    (upwards, "must be relative"),
    (at_the_root, "must be relative"),
    (linked, "links and devices"),
    (bomb, "has more than"),
    (lying_bomb, "package.zip"),
    (twice, "holds a file twice"),
]


@pytest.mark.parametrize(("spoil", "words"), ZIPS, ids=[spoil.__name__ for spoil, _ in ZIPS])
def test_a_tampered_zip_is_refused(
    house: House, package: Path, spoil: Callable[[zipfile.ZipFile, House], None], words: str
) -> None:
    archive = zipped(package)
    spoil(archive, house)
    archive.close()
    refused(house, package.parent / "package.zip", words)


def test_there_are_at_least_twelve_and_the_same_package_untouched_is_good(house: House, package: Path) -> None:
    assert len(FOLDERS) + len(ZIPS) >= 12
    ran = house.curie("models", "verify", str(package), "--json")
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout)["version"] == "9.9.0"
    with zipped(package) as archive:
        assert archive.filename is not None
    assert house.curie("models", "verify", str(package.parent / "package.zip")).returncode == 0
