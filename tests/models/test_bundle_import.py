"""Three bundles of the kinds that are public come in, are signed, installed and run; the figures against MONAI hold."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from appliance.catalogue import Catalogue
from appliance.errors import PackageRefused, SettingsError
from appliance.settings import parse
from models.bundle.conversion import load_weights
from models.bundle.declaring import Said
from models.bundle_import import answered, import_bundle, report_path
from models.engines import Place
from models.gate import inspect
from models.made_up import volumes_of
from models.package import Package, load_package, sign_package
from models.registry import open_registry
from models.sandbox import Limits
from models.shelf import Shelf
from models.signing import make_key, read_private_key
from tests.models import bundles

NORMAL = {"value": "17621005", "meaning": "Normal"}
ABNORMAL = {"value": "263654008", "meaning": "Abnormal"}
NOTHING = Said()
HOUSE = Path(__file__).parents[2]
SAID = {
    "spleen": Said(id="spleen-ct"),
    "tumour": Said(axcodes="LPS", version="1.2.3"),
    "classifier": Said(axcodes="LPS", codes={"normal": NORMAL, "abnormal": ABNORMAL}, threshold=0.3),
}


@dataclass(frozen=True)
class Imported:
    """One imported bundle."""

    package: Package
    report: dict[str, Any]


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Imported]:
    """Each bundle of tests/models/bundles.py, imported once."""
    folder = tmp_path_factory.mktemp("bundles")

    def one(name: str) -> Imported:
        told = getattr(bundles, name)()
        weights = bundles.smooth_weights(told[1]["network_def"]) if name == "spleen" else None
        bundle = bundles.write(folder / f"{name}_bundle", told, weights)
        report = import_bundle(Path(bundle.name), Path(name), SAID[name])
        return Imported(load_package(folder / name), report)

    with contextlib.chdir(folder), ThreadPoolExecutor() as threads:  # as a person names folders
        return dict(zip(SAID, threads.map(one, SAID), strict=True))


def test_what_a_bundle_says_is_declared_and_no_more(imported: dict[str, Imported]) -> None:
    declared = imported["spleen"].package.manifest
    assert (declared.id, declared.version, declared.not_for_clinical_use) == ("spleen-ct", "0.5.3", True)
    assert [step.op for step in declared.preprocess] == ["orient", "resample", "scale_range"]
    assert declared.preprocess[1].spacing_mm == (1.5, 1.5, 2.0)
    assert (declared.preprocess[2].a_min, declared.preprocess[2].clip) == (-57, True)
    assert (declared.inference.roi, declared.inference.overlap, declared.inference.blend) == (
        (32, 32, 16),
        0.5,
        "constant",
    )
    (segment,) = declared.outputs.segments
    assert (segment.name, segment.type.value, segment.type.scheme) == ("spleen", "78961009", "SCT")
    assert declared.postprocess[0].method == "linear_logits"
    card = imported["spleen"].package.path("card.md").read_text()
    assert "not validated here" in card
    assert "mean_dice: 0.96" in card
    assert "not to be used for diagnostic purposes" in declared.intended_use


def test_nested_regions_are_put_in_order_and_named_for_what_is_left_of_them(imported: dict[str, Imported]) -> None:
    declared = imported["tumour"].package.manifest
    assert declared.architecture.kwargs["channel_order"] == [1, 0, 2]
    assert [one.name for one in declared.inputs] == ["t1c", "t1", "t2", "flair"]
    assert [one.name for one in declared.outputs.segments] == [
        "Edema around tumor", "Tumor core without enhancement", "Enhancing tumor"
    ]  # fmt: skip
    assert (declared.outputs.activation, declared.outputs.threshold) == ("sigmoid", 0.5)
    assert any("the innermost covers" in one for one in imported["tumour"].report["differences"])


def test_a_classifier_has_classes_with_the_codes_a_person_gave(imported: dict[str, Imported]) -> None:
    declared = imported["classifier"].package.manifest
    assert [one.code.value for one in declared.outputs.classes] == ["17621005", "263654008"]
    assert (declared.outputs.positive, declared.outputs.threshold) == (1, 0.3)
    assert declared.inference.mode == "slices"
    assert declared.inputs[0].requirement.max_slices == 1  # the scale is of one image, not of a series


@pytest.mark.parametrize("name", SAID)
def test_engines_agree_and_the_report_lies_beside_the_package(imported: dict[str, Imported], name: str) -> None:
    report = imported[name].report
    assert [one["rung"] for one in report["engines"]] == ["openvino", "onnxruntime", "torch"]
    assert all(one["cases"] and not one["reason"] for one in report["engines"]), report["engines"]
    assert json.loads(report_path(imported[name].package.folder).read_text()) == report
    assert any("curie models sign" in one for one in report["next"])


def test_without_resampling_a_package_is_what_monais_pipeline_computes(imported: dict[str, Imported]) -> None:
    assert set(imported["tumour"].report["monai"]["dice"].values()) == {1.0}
    assert imported["classifier"].report["monai"]["probability"] < 1e-5


def test_with_resampling_the_half_voxel_is_said(imported: dict[str, Imported]) -> None:
    report = imported["spleen"].report
    assert any("half a voxel" in one for one in report["differences"])
    assert 0.95 < report["monai"]["dice"]["1"] < 1
    assert report["monai"]["flips"] < 0.02


@pytest.mark.parametrize("name", SAID)
def test_a_report_says_how_the_import_was_confined(imported: dict[str, Imported], name: str, tmp_path: Path) -> None:
    said = "import json, sys; from models.sandbox import *; print(json.dumps(confine(Limits(), Path(sys.argv[1]))))"
    here = subprocess.run([sys.executable, "-c", said, str(tmp_path)], capture_output=True, check=True, cwd=HOUSE)
    assert imported[name].report["confined"] == json.loads(here.stdout)
    assert imported[name].report["confined"][0] == "limits on memory, time, file size and open files"


@pytest.mark.parametrize("name", SAID)
def test_an_imported_package_is_signed_installed_and_runs(
    imported: dict[str, Imported], name: str, catalogue: Catalogue, tmp_path: Path
) -> None:
    package = imported[name].package
    make_key(tmp_path / "site.key")
    settings = parse(f'[models]\ntrusted_keys = ["{tmp_path}/site.pub"]\n', tmp_path / "curie.toml")
    sign_package(package.folder, read_private_key(tmp_path / "site.key"))
    registry = open_registry(settings, catalogue)
    row, new = registry.install(package.folder, inspect)
    assert new
    installed = registry.load(row)
    volumes = volumes_of(installed.manifest)
    reading, loaded = Shelf(["openvino"], Place("cpu")).read([volumes], installed)
    assert loaded.choice.engine.name == "openvino"
    if name == "classifier":
        assert sum(reading.probabilities) == pytest.approx(1)
        return
    assert reading.label_maps[0].shape == volumes[0].shape
    assert len(np.unique(reading.label_maps[0])) > 1


def test_a_folder_that_is_there_is_not_written_into(imported: dict[str, Imported], tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="is there already"):
        import_bundle(tmp_path, imported["spleen"].package.folder, Said())


def refused(tmp_path: Path, told: Any, said: Said = NOTHING, weights: object = None, **limits: Any) -> str:
    """Import a bundle that must be refused; return the sentence. Nothing is left of it."""
    bundle = bundles.write(tmp_path / "bundle", told, weights)
    with pytest.raises((PackageRefused, SettingsError)) as refusal:
        import_bundle(bundle, tmp_path / "made" / "out", said, Limits(**limits))
    assert "\n" not in str(refusal.value)
    made = tmp_path / "made"
    assert not made.exists() or list(made.iterdir()) == []
    return str(refusal.value)


class Bomb:
    """A pickle of this would run a command."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        import os

        return os.system, (f"touch {self.canary}",)


def test_a_pickle_with_code_ends_in_one_line_and_its_code_never_runs(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    sentence = refused(tmp_path, bundles.spleen(), weights={"weight": Bomb(canary)})
    assert sentence.startswith("models/model.pt: cannot be read as tensors alone")
    assert not canary.exists()


def test_weights_of_another_shape_are_refused_by_name() -> None:
    network = bundles.network(bundles.spleen()[1]["network_def"])
    weights = network.state_dict()
    name = next(iter(weights))
    weights[name] = weights[name][:1]
    with pytest.raises(PackageRefused, match=rf"models/model\.pt: {name} is \[1, .*, the network of network_def has"):
        load_weights(network, weights)


ANSWERS: list[tuple[bytes, str]] = [
    (b'{"held": [], "engines": [], "monai": {}, "more": 1}', "something else than its figures"),
    (b'{"held": [1], "engines": [], "monai": {}}', "something else than its figures"),
    (b'{"engines": [], "monai": {}}', "something else than its figures"),
    (b'{"refused": 3}', "something else than its figures"),
    (b'{"refused": "' + b"x " * 9999 + b'"}', "^(x )+x?$"),
    (b'{"refused": "one\\ntwo"}', "^one two$"),
    (b"[" * 99999, "answer.json: cannot be read as JSON"),
    (b"\xff", "answer.json: cannot be read as JSON"),
    (b" " * (4 * 2**20 + 1), "answer.json: is no plain file, or larger"),
]


@pytest.mark.parametrize(("raw", "words"), ANSWERS, ids=[str(n) for n in range(len(ANSWERS))])
def test_what_the_confined_process_answers_is_not_believed(tmp_path: Path, raw: bytes, words: str) -> None:
    (tmp_path / "answer.json").write_bytes(raw)
    with pytest.raises(PackageRefused, match=words) as refusal:
        answered(tmp_path / "answer.json", 0)
    assert len(str(refusal.value)) <= 600
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(("code", "words"), [(137, "ended by signal 9, without"), (1, "ended with code 1, without")])
def test_a_death_without_an_answer_is_named(tmp_path: Path, code: int, words: str) -> None:
    with pytest.raises(PackageRefused, match=words):
        answered(tmp_path / "answer.json", code)


DEATHS = (
    r"the network needs more memory than an import may use"
    r"|the import ended (with code 1|by signal (6|7|9|11)), without an answer: the network may need more than .*"
)  # NumPy's OpenBLAS ends the process with 1 itself; libraries in C++ abort


def test_what_needs_more_memory_than_allowed_dies_of_that(tmp_path: Path) -> None:
    assert re.fullmatch(DEATHS, refused(tmp_path, bundles.spleen(), memory_bytes=1 << 29))


def test_what_takes_too_long_is_ended(tmp_path: Path) -> None:
    assert "longer than 1 s" in refused(tmp_path, bundles.spleen(), wall_s=1.0)
