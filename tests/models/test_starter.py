"""What `curie models new` writes becomes a package that passes the gate, by running its make.py as a person would."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from appliance.errors import CurieError, Missing, PackageRefused, SettingsError
from models.gate import inspect
from models.networks import build
from models.package import load_package
from models.packaging import write_graph
from models.starter import Wanted, graph_says, starter, write_starter

ROOT = Path(__file__).parents[2]
CODES = {
    "normal": {"value": "17621005", "meaning": "Normal"},
    "abnormal": {"value": "263654008", "meaning": "Abnormal"},
}
TINY = {"inputs": 2, "classes": 3, "channels": [4, 8], "down": [1, 1], "up": [1]}


def made(folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a folder's make.py."""
    command = [sys.executable, "-W", "ignore", str(folder / "make.py")]
    return subprocess.run(command, capture_output=True, text=True, env={"PYTHONPATH": str(ROOT)}, timeout=120)


def why_not(folder: Path) -> str:
    """Run a folder's make.py, which is to fail, in this process; returns what it says."""
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(folder / "make.py"), run_name="__main__")
    return str(ended.value.code)


def smaller(folder: Path, **kwargs: object) -> None:
    """Edit package.json, as a person does: a smaller network."""
    declared = json.loads((folder / "package.json").read_text())
    declared["architecture"]["kwargs"] |= kwargs
    (folder / "package.json").write_text(json.dumps(declared))


def test_from_torch(tmp_path: Path) -> None:
    folder = tmp_path / "my-organs"
    steps = write_starter(folder, Wanted("torch", "my-organs", "CT", ("liver", "left kidney"), roi=(16, 16, 16)))
    assert any("weights.safetensors" in one for one in steps)
    smaller(folder, channels=[4, 8], strides=[2], num_res_units=0)
    without = why_not(folder)
    assert without.startswith("not made: ")
    assert "weights.safetensors" in without
    kwargs = json.loads((folder / "package.json").read_text())["architecture"]["kwargs"]
    save_file(build("monai-unet", kwargs).state_dict(), folder / "weights.safetensors")
    ran = made(folder)
    assert ran.returncode == 0, ran.stderr
    package = load_package(folder / "package")
    inspect(package)
    assert [one.laterality for one in package.manifest.outputs.segments] == [None, "left"]
    assert "choose a new version" in why_not(folder)
    (folder / "package.json").write_text("{}")
    assert why_not(folder) == "not made: package.json: schema_version: Field required"


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning")
def test_from_onnx(tmp_path: Path) -> None:
    write_graph(build("thin-unet", TINY).eval(), (2, 16, 16, 16), tmp_path / "mine.onnx")
    assert graph_says(tmp_path / "mine.onnx") == (2, (16, 16, 16), 3)
    folder = tmp_path / "two-series"
    wanted = Wanted("onnx", "two-series", "MR", ("brain", "hippocampus"), roi=(16, 16, 16), channels=2)
    write_starter(folder, wanted, tmp_path / "mine.onnx")
    ran = made(folder)
    assert ran.returncode == 0, ran.stderr
    inspect(load_package(folder / "package"))


def test_a_classifier_over_slices_begins_with_a_size() -> None:
    declared = starter(Wanted("torch", "flag", "CR", classes=("normal", "abnormal"), codes=CODES))
    assert declared["architecture"]["name"] == "monai-densenet121"
    assert declared["preprocess"][1] == {"op": "resize", "size": [224, 224, None]}
    assert declared["outputs"]["positive"] == 1


def test_it_says_that_it_is_not_for_clinical_use_and_what_is_to_be_filled_in(tmp_path: Path) -> None:
    write_starter(tmp_path / "one", Wanted("torch", "one", "MR", ("liver",)))
    assert "Not for clinical use" in (tmp_path / "one" / "card.md").read_text()
    declared = json.loads((tmp_path / "one" / "package.json").read_text())
    assert declared["not_for_clinical_use"] is True
    with pytest.raises(SettingsError, match="not empty"):
        write_starter(tmp_path / "one", Wanted("torch", "one", "MR", ("liver",)))


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        (Wanted("torch", "one", "MR"), "--segments or --classes"),
        (Wanted("torch", "one", "MR", ("liver",), ("normal",)), "--segments or --classes"),
        (Wanted("torch", "one", "MR", ("thing",)), "--codes: no code is known for 'thing'"),
        (Wanted("torch", "one", "MR", classes=("normal",)), "--codes: no code is known for 'normal'"),
        (Wanted("torch", "one", "US", ("liver",)), "--modality"),
        (Wanted("torch", "one", "MR", ("liver",), roi=(1,)), "--roi"),
        (Wanted("torch", "one", "MR", ("liver",), spacing_mm=(1.0,)), "--spacing"),
        (Wanted("torch", "Not An Id", "MR", ("liver",)), "package.json: id"),
    ],
    ids=lambda one: one if isinstance(one, str) else "",
)
def test_what_cannot_begin_is_said_in_one_line(wanted: Wanted, words: str) -> None:
    with pytest.raises(CurieError, match=words) as refusal:
        starter(wanted)
    assert "\n" not in str(refusal.value)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning")
def test_a_graph_that_does_not_fit_is_said(tmp_path: Path) -> None:
    with pytest.raises(Missing, match="--graph"):
        graph_says(tmp_path / "nowhere.onnx")
    torch.onnx.export(
        build("thin-unet", TINY).eval(), (torch.zeros(1, 2, 16, 16, 16),), str(tmp_path / "fixed.onnx"), dynamo=True,
        opset_version=18, external_data=False, verbose=False,
    )  # fmt: skip
    with pytest.raises(PackageRefused, match="takes a batch of 1 only; export it with any batch"):
        graph_says(tmp_path / "fixed.onnx")
