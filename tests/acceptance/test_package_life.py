"""Promote and roll back while studies keep coming; a shadow and a version with altered weights on a real appliance."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from pydicom import dcmread

from models.package import sign_package
from models.registry import ZOO
from models.signing import make_key, read_private_key
from tests.acceptance.house import Appliance, Orthanc, dcmsend
from tests.acceptance.test_killed import small_head

pytestmark = pytest.mark.acceptance
Pair = tuple[Appliance, Orthanc]
WHO = ("--by", "A. Person", "--reason", "acceptance")


def made(appliance: Appliance, folder: Path, version: str, bias: float = 0.0) -> Path:
    """Return a version signed with the site's own key; `bias` alters the graph, not the golden cases."""
    package = Path(shutil.copytree(ZOO / "brain-structures", folder / version))
    declared = json.loads((package / "package.json").read_text()) | {"version": version}
    (package / "package.json").write_text(json.dumps(declared))
    if bias:
        model = onnx.load(str(package / "model.onnx"))
        for tensor in model.graph.initializer:
            if tensor.name == "head.bias":
                values = onnx.numpy_helper.to_array(tensor) + np.float32(bias) * np.arange(8, dtype=np.float32)
                tensor.CopyFrom(onnx.numpy_helper.from_array(values.astype(np.float32), tensor.name))
        (package / "model.onnx").write_bytes(model.SerializeToString())
    key = appliance.folder / "publisher.key"
    if not key.exists():
        make_key(key)
        text = appliance.file.read_text()
        appliance.file.write_text(f'{text}\n[models]\ntrusted_keys = ["{key.with_suffix(".pub")}"]\n')
    sign_package(package, read_private_key(key))
    return package


def installed(appliance: Appliance, package: Path) -> dict[str, Any]:
    ran = appliance.run("models", "install", str(package), "--json")
    assert ran.returncode == 0, ran.stderr
    told: dict[str, Any] = json.loads(ran.stdout)
    return told


def active(appliance: Appliance) -> str:
    (version,) = [
        m["version"]
        for m in appliance.json("models", "list")
        if m["package"] == "brain-structures" and m["state"] == "active"
    ]
    return str(version)


def version_in(orthanc: Orthanc, study: str) -> str:
    """Return the package version that the SEG in the PACS names."""
    (instance,) = orthanc.results(study)["SEG"]
    path = orthanc.folder / "seg.dcm"
    path.write_bytes(orthanc.content(f"/instances/{instance}/file"))
    return str(dcmread(path).SegmentSequence[0].SegmentationAlgorithmIdentificationSequence[0].AlgorithmVersion)


def test_promote_and_rollback_under_load_lose_nothing_and_each_result_names_its_version(
    pair: Pair, tmp_path: Path
) -> None:
    appliance, orthanc = pair
    shipped = active(appliance)
    assert installed(appliance, made(appliance, tmp_path, "9.0.0"))["state"] == "candidate"
    studies = []
    for number, command in enumerate((None, "promote", None, "rollback", None)):
        folder = tmp_path / f"study-{number}"
        studies.append(small_head(folder, 7000 + number))
        dcmsend([folder], appliance.port)
        if command:
            name = "brain-structures@9.0.0" if command == "promote" else "brain-structures"
            assert appliance.run("models", command, name, *WHO).returncode == 0
    expected = {shipped, "9.0.0"}
    for study in studies:
        outcome = appliance.final(study)
        assert outcome["outcome"] == "completed"
        assert {kind: len(ids) for kind, ids in orthanc.results(study).items()} == {"SEG": 1, "SR": 1}
        assert version_in(orthanc, study) == outcome["version"]
        assert outcome["version"] in expected
    assert active(appliance) == shipped


def test_a_promotion_holds_for_the_very_next_study_without_a_restart(pair: Pair, tmp_path: Path) -> None:
    appliance, _ = pair
    shipped = active(appliance)
    installed(appliance, made(appliance, tmp_path, "9.1.0"))
    assert appliance.run("models", "promote", "brain-structures@9.1.0", *WHO).returncode == 0
    study = small_head(tmp_path / "study", 7100)
    dcmsend([tmp_path / "study"], appliance.port)
    assert appliance.final(study)["version"] == "9.1.0"
    assert appliance.run("models", "rollback", "brain-structures", *WHO).returncode == 0
    assert active(appliance) == shipped


def test_nothing_of_a_shadow_leaves_and_its_answers_are_compared(pair: Pair, tmp_path: Path) -> None:
    appliance, orthanc = pair
    shipped = active(appliance)
    installed(appliance, made(appliance, tmp_path, "9.2.0"))
    assert appliance.run("models", "shadow", "brain-structures@9.2.0").returncode == 0
    try:
        study = small_head(tmp_path / "study", 7200)
        dcmsend([tmp_path / "study"], appliance.port)
        assert appliance.final(study)["version"] == shipped
        told = appliance.json("models", "compare", f"brain-structures@{shipped}", "brain-structures@9.2.0")
        for _ in range(60):
            if told["all"]["studies"]:
                break
            time.sleep(1)
            told = appliance.json("models", "compare", f"brain-structures@{shipped}", "brain-structures@9.2.0")
        assert told["all"]["studies"] == 1
        assert {one["dice"] for one in told["all"]["findings"].values()} == {1.0}
        assert {kind: len(ids) for kind, ids in orthanc.results(study).items()} == {"SEG": 1, "SR": 1}
    finally:
        assert appliance.run("models", "shadow", "brain-structures@9.2.0", "--off").returncode == 0


def test_an_engine_of_altered_weights_is_caught_and_the_reason_shows(pair: Pair, tmp_path: Path) -> None:
    appliance, _ = pair
    told = installed(appliance, made(appliance, tmp_path, "9.3.0", bias=0.5))
    assert told["backend"] == "torch f32", "the reference alone agrees with the golden cases"
    reasons = {one["rung"]: one["reason"] for one in told["skipped"]}
    assert "golden" in reasons["openvino f32"]
    assert "golden" in reasons["onnxruntime f32"]
    shown = appliance.run("models", "show", "brain-structures@9.3.0").stdout
    assert "not on openvino f32: differs from the golden output" in shown
