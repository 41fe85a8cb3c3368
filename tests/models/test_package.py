"""A package is exactly the files its manifest names; everything else is refused with the file and the reason."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from appliance import study
from appliance.errors import PackageRefused
from appliance.study import SeriesRequirement
from models.declaration import Declaration, json_schema
from models.inputs import Condition, Preference, Requirement
from models.package import MANIFEST, Package, load_package, write_manifest

SCHEMA = Path(__file__).parents[2] / "docs" / "package.schema.json"


def altered_byte(folder: Path) -> None:
    path = folder / "weights.safetensors"
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)


def longer(folder: Path) -> None:
    with (folder / "model.onnx").open("ab") as file:
        file.write(b"\0")


def extra_file(folder: Path) -> None:
    (folder / "golden" / "run.py").write_text("print()")


def missing_file(folder: Path) -> None:
    (folder / "card.md").unlink()


def symlink(folder: Path) -> None:
    (folder / "card.md").rename(folder.parent / "card.md")
    (folder / "card.md").symlink_to(folder.parent / "card.md")


def linked_folder(folder: Path) -> None:
    (folder / "more").symlink_to(folder.parent)


def linked_manifest(folder: Path) -> None:
    (folder / MANIFEST).rename(folder.parent / MANIFEST)
    (folder / MANIFEST).symlink_to(folder.parent / MANIFEST)


def relist(folder: Path, **changes: object) -> None:
    """Change the first entry of MANIFEST.json and keep the canonical form."""
    listed = json.loads((folder / MANIFEST).read_bytes())
    listed["files"][0] |= changes
    listed["files"].sort(key=lambda entry: entry["path"])
    (folder / MANIFEST).write_text(json.dumps(listed, sort_keys=True, separators=(",", ":")))


def redeclare(folder: Path, change: Callable[[dict[str, object]], object]) -> None:
    """Change package.json and list it anew, as a publisher by mistake would."""
    declared = json.loads((folder / "package.json").read_text())
    change(declared)
    (folder / "package.json").write_text(json.dumps(declared))
    write_manifest(folder)


def key_twice(folder: Path) -> None:
    """Say `not_for_clinical_use` twice: readers take the first or the last."""
    raw = (folder / "package.json").read_text()
    (folder / "package.json").write_text(
        raw.replace('"not_for_clinical_use": true', '"not_for_clinical_use": true, "not_for_clinical_use": false')
    )
    write_manifest(folder)


REFUSED: list[tuple[Callable[[Path], object], str]] = [
    (key_twice, "package.json: the key 'not_for_clinical_use' stands twice"),
    (altered_byte, "weights.safetensors: its SHA-256"),
    (longer, "model.onnx: has"),
    (extra_file, "golden/run.py: there but not listed"),
    (missing_file, "card.md: listed in MANIFEST.json but not there"),
    (symlink, "card.md: links"),
    (linked_folder, "more: links"),
    (linked_manifest, "MANIFEST.json: not there, or not a plain file"),
    (lambda folder: (folder / MANIFEST).unlink(), "MANIFEST.json: not there"),
    (lambda folder: (folder / MANIFEST).write_text("[]"), "MANIFEST.json: "),
    (lambda folder: (folder / MANIFEST).write_text((folder / MANIFEST).read_text() + "\n"), "not in canonical form"),
    (lambda folder: relist(folder, path="../card.md"), "must be relative"),
    (lambda folder: relist(folder, path="/etc/passwd"), "must be relative"),
    (lambda folder: relist(folder, path="golden/./case-1.npz"), "must be relative"),
    (lambda folder: relist(folder, path="package.json"), "names a file twice"),
    (lambda folder: relist(folder, path="MANIFEST.sig"), "MANIFEST.sig: cannot be listed"),
    (lambda folder: relist(folder, mode=755), "MANIFEST.json: files.0.mode: Extra"),
    (lambda folder: redeclare(folder, lambda one: one.update(hook="x.py")), "package.json: hook: Extra"),
    (lambda folder: redeclare(folder, lambda one: one.pop("limits")), "package.json: limits: Field required"),
    (lambda folder: redeclare(folder, lambda one: one.update(version="1.0")), "package.json: version"),
    (lambda folder: redeclare(folder, lambda one: one.update(title="x" * 41)), "package.json: title"),
    (lambda folder: redeclare(folder, lambda one: one.update(preprocess=[])), "must begin with orient"),
    (lambda folder: redeclare(folder, lambda one: one.update(postprocess=[{"op": "eval"}])), "postprocess.0"),
]


@pytest.mark.parametrize(("spoil", "words"), REFUSED, ids=[words for _, words in REFUSED])
def test_a_spoilt_package_is_refused_in_one_line(copied: Path, spoil: Callable[[Path], object], words: str) -> None:
    spoil(copied)
    with pytest.raises(PackageRefused) as refusal:
        load_package(copied)
    assert words in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_copy_is_the_same_package_and_a_signature_does_not_change_it(shipped: Package, copied: Path) -> None:
    (copied / "MANIFEST.sig").write_bytes(b"signed")
    assert load_package(copied).digest == shipped.digest == write_manifest(copied)


def test_another_card_is_another_digest(shipped: Package, copied: Path) -> None:
    (copied / "card.md").write_text("other")
    write_manifest(copied)
    assert load_package(copied).digest != shipped.digest


def test_the_requirement_has_the_fields_that_routing_knows(shipped: Package) -> None:
    assert set(Requirement.model_fields) == {field.name for field in dataclasses.fields(SeriesRequirement)}
    assert set(Condition.model_fields) == {field.name for field in dataclasses.fields(study.Condition)}
    assert set(Preference.model_fields) == {field.name for field in dataclasses.fields(study.Preference)}
    assert shipped.requirements["head"].modality == "MR"
    assert isinstance(shipped.requirements["head"], SeriesRequirement)


def test_what_ships_says_that_it_is_not_for_clinical_use(shipped: Package) -> None:
    assert shipped.manifest.not_for_clinical_use
    assert "clinical" in shipped.manifest.title
    assert "Not for clinical use" in (shipped.folder / "card.md").read_text()


def test_the_schema_is_closed_and_the_shipped_package_has_every_required_key(shipped: Package) -> None:
    schema = json_schema()
    assert schema["additionalProperties"] is False
    assert set(schema["required"]) <= set(json.loads((shipped.folder / "package.json").read_text()))
    assert Declaration.model_validate(shipped.manifest.model_dump()) == shipped.manifest
    assert json.loads(SCHEMA.read_text()) == schema, "run: python -m models.declaration > docs/package.schema.json"


def test_reading_packages_needs_no_heavy_library() -> None:
    heavy = "[name for name in ('torch', 'onnx', 'openvino') if name in sys.modules]"
    code = f"import sys, models.registry, models.engines; print({heavy})"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
