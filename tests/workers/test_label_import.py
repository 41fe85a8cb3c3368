"""Labels drawn elsewhere become cases: SEG, RT Structure Set and NIfTI; each file that does not says why."""

from __future__ import annotations

import io
import zlib
from pathlib import Path

import nibabel
import numpy as np
import pytest
from pydicom import Dataset, dcmread
from sqlalchemy import select

from appliance.catalogue import Catalogue, training
from appliance.catalogue.connection import now
from appliance.catalogue.training_tables import training_case
from appliance.errors import CurieError, Missing, SettingsError
from appliance.finding import Finding
from appliance.settings import Settings, parse
from appliance.training_set import folder_of
from dicom_nodes.arrivals import FileKept
from dicom_nodes.contour_set import write_contours
from dicom_nodes.indexer import Indexer
from dicom_nodes.segmentation import write_segmentation
from dicom_nodes.spool import Spool
from models.registry import ZOO, shipped
from tests.made_up import context, read_phantom
from tests.phantoms import Phantom, part10, series
from workers.kept_cases import opt_out
from workers.label_import import Outcome, begin, mapped

CROP = Phantom(slices=12, rows=40, columns=34, spacing=(2.0, 1.0, 1.0))
HIPPOCAMPUS = shipped(ZOO / "hippocampus").manifest


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return parse("[spool]\nreserve_gb = 0\n", tmp_path / "curie.toml")


def structures() -> list[Finding]:
    """Return anterior and posterior hippocampus as findings, so that our writers can write them."""
    return [
        Finding(
            one.number, one.name, one.category.as_code(), one.type.as_code(), None, one.rgb,
            tracking_uid=f"2.25.{one.number}",
        )
        for one in HIPPOCAMPUS.outputs.segments  # type: ignore[union-attr]
    ]  # fmt: skip


def drawn(folder: Path, kind: str) -> tuple[Path, np.ndarray]:
    """Return a file that a person drew on a crop, and what it says."""
    labels, volume, source = read_phantom(folder / "images", CROP)
    labels = np.where(labels == 3, 0, labels).astype(np.uint8)
    write = write_contours if kind == "RTSTRUCT" else write_segmentation
    ds = dcmread(io.BytesIO(bytes(write(labels, volume, structures(), source, context()))))
    ds.Manufacturer, ds.OperatorsName = "Workstation Works", "Curie^Irene"
    del ds.DeviceUID, ds.ContributingEquipmentSequence
    path = folder / "drawn.dcm"
    ds.save_as(path)
    return path, labels


def outcomes(settings: Settings, catalogue: Catalogue, path: Path, **more: object) -> list[Outcome]:
    return list(begin(settings, catalogue, "hippocampus", **more).run([path]))  # type: ignore[arg-type]


def cases(catalogue: Catalogue) -> list[training.KeptCase]:
    with catalogue.read() as connection:
        return training.live(connection, "hippocampus", now().replace(year=2000))


@pytest.mark.parametrize("kind", ["SEG", "RTSTRUCT"])
def test_what_was_drawn_on_images_of_a_folder_is_kept(
    settings: Settings, catalogue: Catalogue, tmp_path: Path, kind: str
) -> None:
    path, labels = drawn(tmp_path, kind)
    assert outcomes(settings, catalogue, path, images=tmp_path / "images") == [Outcome(str(path), 1)]
    (case,) = cases(catalogue)
    assert (case.source, case.author, case.scanner) == ("import", "Curie^Irene", "Phantom Works Ellipsoid")
    with np.load(folder_of(settings) / case.path, allow_pickle=False) as held:
        assert np.array_equal(held["labels"], labels)
        assert set(held.files) == {"voxels", "affine", "labels", "patient", "scanner"}
    again = outcomes(settings, catalogue, path, images=tmp_path / "images")
    assert [one.reason for one in again] == [training.KNOWN]


def test_images_of_the_spool_need_no_folder(settings: Settings, catalogue: Catalogue, tmp_path: Path) -> None:
    path, _ = drawn(tmp_path, "SEG")
    assert "not here" in outcomes(settings, catalogue, path)[0].reason
    spool = Spool(settings.spool_dir, 0)
    spool.prepare()
    kept = [spool.keep(str(ds.SOPInstanceUID), part10(ds)) for ds in series(CROP)]
    Indexer(catalogue, spool)._write([FileKept(one.path, "a") for one in kept])
    assert outcomes(settings, catalogue, path, author="Joliot") == [Outcome(str(path), 1)]
    assert cases(catalogue)[0].author == "Joliot"


def test_a_model_s_own_answer_and_what_is_no_label_are_refused(
    settings: Settings, catalogue: Catalogue, tmp_path: Path
) -> None:
    path, _ = drawn(tmp_path, "SEG")
    ds = dcmread(path)
    ds.Manufacturer, ds.DeviceUID = "Petite Curie", "2.25.1"
    ds.save_as(path)
    (tmp_path / "note.txt").write_text("no")
    (tmp_path / "loose.nii.gz").write_bytes(b"no")
    found = {Path(one.file).name: one.reason for one in outcomes(settings, catalogue, tmp_path)}
    assert "model's answer" in found["drawn.dcm"]
    assert "not a readable DICOM file" in found["note.txt"]
    assert "images/ beside" in found["loose.nii.gz"]
    assert cases(catalogue) == []


def without_one(ds: Dataset) -> None:
    del ds.SegmentSequence[1]


def of_another(ds: Dataset) -> None:
    ds.PatientID = "SOMEBODY"


@pytest.mark.parametrize(("change", "words"), [(without_one, "does not say where"), (of_another, "another patient")])
def test_half_a_label_and_another_s_are_refused(
    settings: Settings, catalogue: Catalogue, tmp_path: Path, change: object, words: str
) -> None:
    path, _ = drawn(tmp_path, "SEG")
    ds = dcmread(path)
    change(ds)  # type: ignore[operator]
    ds.save_as(path)
    assert words in outcomes(settings, catalogue, path, images=tmp_path / "images")[0].reason


def write_pair(folder: Path, name: str, labels: np.ndarray, shape: tuple[int, ...] = (30, 32, 34)) -> None:
    """Write an image (i, j, k) whose values say where they are, and labels."""
    affine = np.diag([1.0, 1.5, 2.0, 1.0])
    image = np.arange(np.prod(shape)).reshape(shape) % 900
    image[0, 0, 0] = zlib.crc32(name.encode()) % 10_000  # no two are the same
    affine[:3, 3] = (10, -20, 30)
    for part, array in (("images", image), ("labels", labels)):
        (folder / part).mkdir(parents=True, exist_ok=True)
        nibabel.save(nibabel.Nifti1Image(array.astype(np.float32), affine), folder / part / name)


def block(*values: int) -> np.ndarray:
    labels = np.zeros((30, 32, 34), np.float32)
    for n, value in enumerate(values):
        labels[5 + n, 6:9, 7:11] = value
    return labels


def test_a_nifti_pair_lies_in_lps_and_its_name_is_the_patient(
    settings: Settings, catalogue: Catalogue, tmp_path: Path
) -> None:
    write_pair(tmp_path / "set", "a_1.nii.gz", block(1, 2))
    assert [one.cases for one in outcomes(settings, catalogue, tmp_path / "set")] == [1]
    (case,) = cases(catalogue)
    assert len(case.patient) == 64
    with np.load(folder_of(settings) / case.path, allow_pickle=False) as held:
        assert held["voxels"].dtype == np.float32 or held["voxels"].dtype == np.int16
        assert held["labels"].shape == (34, 32, 30)
        assert held["labels"][7, 6, 5] == 1
        assert held["labels"][7, 6, 6] == 2
        assert np.allclose(held["affine"] @ (7, 6, 5, 1), (-(10 + 5), -(-20 + 6 * 1.5), 30 + 7 * 2, 1))
        assert held["voxels"][7, 6, 5] == (5 * 32 * 34 + 6 * 34 + 7) % 900


def test_each_pair_that_is_not_kept_says_why(settings: Settings, catalogue: Catalogue, tmp_path: Path) -> None:
    folder = tmp_path / "set"
    write_pair(folder, "good.nii.gz", block(1, 2))
    write_pair(folder, "strange.nii.gz", block(7))
    write_pair(folder, "empty.nii.gz", block())
    write_pair(folder, "other_grid.nii.gz", block(1)[:20])
    write_pair(folder, "broken.nii.gz", block(1))
    (folder / "labels" / "broken.nii.gz").write_bytes(b"no")
    write_pair(folder, "alone.nii.gz", block(1))
    (folder / "labels" / "alone.nii.gz").unlink()
    write_pair(folder, "imageless.nii.gz", block(1))
    (folder / "images" / "imageless.nii.gz").unlink()
    found = {Path(one.file).name.split(".")[0]: one.reason for one in outcomes(settings, catalogue, folder)}
    assert found.pop("good") == ""
    words = {
        "strange": "label 7", "empty": "no voxel", "other_grid": "another grid", "broken": "no readable",
        "alone": "no labels of this name", "imageless": "no file of this name",
    }  # fmt: skip
    assert set(found) == set(words)
    assert [(name, reason) for name, reason in found.items() if words[name] not in reason] == []


def test_a_map_says_what_numbers_are(settings: Settings, catalogue: Catalogue, tmp_path: Path) -> None:
    write_pair(tmp_path / "set", "a.nii.gz", block(5, 6, 7))
    assert outcomes(settings, catalogue, tmp_path / "set", numbers="5=2,6=1,7=0")[0].cases == 1
    with np.load(folder_of(settings) / cases(catalogue)[0].path, allow_pickle=False) as held:
        assert [held["labels"][7, 6, n] for n in (5, 6, 7)] == [2, 1, 0]
    assert "not there" in outcomes(settings, catalogue, tmp_path / "set", numbers="5=9")[0].reason
    assert mapped("1=1,2=2") == {1: 1, 2: 2}
    with pytest.raises(SettingsError, match="--map"):
        mapped("1:1")


def test_a_whole_head_needs_sides(settings: Settings, catalogue: Catalogue, tmp_path: Path) -> None:
    labels = np.zeros((100, 100, 60), np.float32)
    labels[20:24, 50:60, 20:30], labels[20:24, 60:64, 20:30], labels[70:74, 50:60, 20:30] = 1, 2, 3
    labels[70:74, 60:64, 20:30] = 4
    write_pair(tmp_path / "set", "head.nii.gz", labels, labels.shape)
    assert "sides matter" in outcomes(settings, catalogue, tmp_path / "set")[0].reason
    assert outcomes(settings, catalogue, tmp_path / "set", numbers="1=3,2=4,3=1,4=2")[0].cases == 2
    assert sorted(one.region for one in cases(catalogue)) == ["left", "right"]


def test_one_patient_is_held_back_or_not_for_ever_and_may_opt_out(
    settings: Settings, catalogue: Catalogue, tmp_path: Path
) -> None:
    for number in range(30):
        write_pair(tmp_path / "set", f"p{number}.nii.gz", block(1, 2))
    outcomes(settings, catalogue, tmp_path / "set")
    before = {one.patient: one.held_back for one in cases(catalogue)}
    assert 0 < sum(before.values()) < 15
    chosen = cases(catalogue)[0]
    assert opt_out(settings, catalogue, chosen.patient, "asked") == 1
    assert not (folder_of(settings) / chosen.path).exists()
    again = outcomes(settings, catalogue, tmp_path / "set")
    assert sorted({one.reason for one in again}) == sorted([training.KNOWN, training.OPTED_OUT])
    assert {one.patient: one.held_back for one in cases(catalogue)} == {
        patient: held for patient, held in before.items() if patient != chosen.patient
    }
    assert not (folder_of(settings) / chosen.path).exists()


def test_what_cannot_begin_says_so(settings: Settings, catalogue: Catalogue, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="not trained here"):
        begin(settings, catalogue, "lung-nodule")
    with pytest.raises(Missing, match="no folder"):
        begin(settings, catalogue, "hippocampus", images=tmp_path / "no")
    with pytest.raises(CurieError, match="is not there"):
        outcomes(settings, catalogue, tmp_path / "no")


def test_nothing_of_a_person_stands_in_a_case(settings: Settings, catalogue: Catalogue, tmp_path: Path) -> None:
    path, _ = drawn(tmp_path, "SEG")
    outcomes(settings, catalogue, path, images=tmp_path / "images")
    with catalogue.read() as connection:
        (row,) = connection.execute(select(training_case)).all()
    with np.load(folder_of(settings) / row.path, allow_pickle=False) as held:
        written = " ".join(str(held[name]) for name in ("patient", "scanner"))
    for word in ("PH-1", "Phantom^Head", "Curie", "18671107"):
        assert word not in written
        assert word not in row.path
