"""Labels that people drew elsewhere → cases: SEG and RT Structure Sets of images that are here, and NIfTI pairs.

Every file has its outcome: so many cases, or the reason why none. It must never take a model's own answer for a label.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from appliance.catalogue import Catalogue, corrections, events
from appliance.catalogue.corrections import HeldSeries
from appliance.errors import CurieError, Missing, ResultRejected, SettingsError
from appliance.job import derived_uid
from appliance.settings import Settings
from appliance.training_set import patient_hash
from appliance.volume import Volume
from dicom_nodes.contour_reader import read_contours
from dicom_nodes.image_folder import images_in
from dicom_nodes.label_objects import SEGMENTATIONS, LabelObject, read_label_object
from dicom_nodes.label_reader import Labels, read_labels
from dicom_nodes.result_classes import RT_STRUCTURE_SET
from dicom_nodes.volume_reader import read_volume
from models.declaration import Declaration
from workers.kept_cases import Told, keep
from workers.labelling import check_complete, complete_regions, labels_of, regions_of, wanted, why_not_trainable
from workers.nifti_pairs import image_of, is_nifti, pairs_in, read_image, read_numbers


@dataclass(frozen=True)
class Outcome:
    """What became of one file."""

    file: str
    cases: int
    reason: str = ""  # why there is none


@dataclass(frozen=True)
class Import:
    """One command: into which package, and what the files do not say."""

    settings: Settings
    catalogue: Catalogue
    declared: Declaration
    author: str = ""
    scanner: str = "unknown"  # of NIfTI files, which do not say
    numbers: Mapping[int, int] | None = None  # of NIfTI files: number in the file → label
    images: Mapping[str, HeldSeries] = field(default_factory=dict)  # beside those of the spool

    def run(self, paths: Sequence[Path]) -> Iterator[Outcome]:
        """Yield the outcome of each file."""
        kept = refused = 0
        for image, labels in [pair for path in paths for pair in files_of(path)]:
            outcome = self._outcome(image, labels)
            kept, refused = kept + outcome.cases, refused + bool(outcome.reason)
            yield outcome
        with self.catalogue.write() as connection:
            events.record(connection, "labels_imported", package=self.declared.id, cases=kept, not_kept=refused)

    def _outcome(self, image: Path | None, labels: Path) -> Outcome:
        name = str(labels)
        try:
            return Outcome(name, self._pair(image, labels) if image else self._object(labels))
        except CurieError as error:
            return Outcome(name, 0, str(error))
        except OSError as error:
            return Outcome(name, 0, f"it cannot be read: {error.strerror}")

    def _object(self, path: Path) -> int:
        """Keep a SEG or structure set."""
        if is_nifti(path):
            raise ResultRejected("NIfTI labels lie in labels/, with their images in images/ beside it")
        told = read_label_object(path)
        if told.sop_class_uid not in (*SEGMENTATIONS, RT_STRUCTURE_SET):
            raise ResultRejected("it is no SEG, RT Structure Set or NIfTI pair")
        if told.own:
            raise ResultRejected("this software made it: a model's answer is no label")
        held = self._images(told)
        volume = read_volume([self.settings.spool_dir / one for one in held.paths])
        regions = regions_of(self.declared, volume)
        known = wanted(self.declared, regions)
        numbers = labels_of(told.structures, known)
        check_complete(numbers.values(), complete_regions(numbers.values(), known))
        read = read_contours if told.sop_class_uid == RT_STRUCTURE_SET else read_labels
        from_whom = Told(
            "import", told.sop_instance_uid, self.author or told.author, told.at or changed_at(path),
            held.study_instance_uid, held.series_instance_uid, patient_hash(self.settings, held.patient_key),
            held.scanner,
        )  # fmt: skip
        return self._keep(volume, read(path, volume, numbers), regions, from_whom)

    def _images(self, told: LabelObject) -> HeldSeries:
        """Return the images that an object labels: of a series that it refers to, else the only one in its frame."""
        with self.catalogue.read() as connection:
            uids = corrections.series_of(connection, told.study_instance_uid)
            stored = [corrections.held_series(connection, told.study_instance_uid, uid) for uid in uids]
        here = {one.series_instance_uid: one for one in (*stored, *self.images.values()) if one is not None}
        found = [one for uid, one in here.items() if uid in told.series]
        found = found or [one for one in here.values() if told.frame_of_reference == one.frame_of_reference != ""]
        if len(found) != 1:
            several = f"it may label {len(found)} series"
            raise ResultRejected(several if found else "the images it refers to are not here; see --images")
        if found[0].patient_key != told.patient_key:
            raise ResultRejected("it names another patient than the images")
        return found[0]

    def _pair(self, image: Path, labels: Path) -> int:
        """Keep a NIfTI pair; its file's name stands for the patient."""
        if not labels.exists():
            raise ResultRejected("there are no labels of this name")
        digest = hashlib.sha256(image.read_bytes() if image.exists() else b"").hexdigest()
        volume = read_image(image, derived_uid("image", digest))
        regions = regions_of(self.declared, volume)
        found = read_numbers(labels, volume, self._numbers(regions))
        label_uid = derived_uid("labels", digest, hashlib.sha256(labels.read_bytes()).hexdigest())
        key = hashlib.sha256(f"file {image.name}".encode()).hexdigest()
        told = Told(
            "import", label_uid, self.author, changed_at(labels), "", volume.series_instance_uid,
            patient_hash(self.settings, key), self.scanner,
        )  # fmt: skip
        return self._keep(volume, found, regions, told)

    def _numbers(self, regions: Sequence[str]) -> Mapping[int, int]:
        known = wanted(self.declared, regions)
        names = ", ".join(f"{one.label} {one.name}" for one in known)
        if self.numbers is None and regions != ("",):
            raise ResultRejected(f"it is larger than a crop, so sides matter: give --map to {names}")
        numbers = self.numbers if self.numbers is not None else {one.label: one.label for one in known}
        if set(numbers.values()) - {0, *(one.label for one in known)}:
            raise ResultRejected(f"--map names a label that is not there; there are {names}")
        return numbers

    def _keep(self, volume: Volume, labels: Labels, regions: Sequence[str], told: Told) -> int:
        return keep(self.settings, self.catalogue, self.declared, volume, labels, regions, told)


def begin(
    settings: Settings, catalogue: Catalogue, package: str, author: str = "", scanner: str = "", numbers: str = "",
    images: Path | None = None,
) -> Import:  # fmt: skip
    """Return an import into the active version of a package. `numbers`: "1=1,2=2". Raises SettingsError or Missing."""
    from models.registry import open_registry

    declared = open_registry(settings, catalogue).package(package).manifest
    if refused := why_not_trainable(declared):
        raise SettingsError(refused)
    if images is not None and not images.is_dir():
        raise Missing(f"{images} is no folder")
    found = images_in(images) if images else {}
    return Import(
        settings, catalogue, declared, author, scanner or "unknown", mapped(numbers) if numbers else None, found
    )


def mapped(text: str) -> dict[int, int]:
    """Return what "1=1,2=0" says. Raises SettingsError."""
    try:
        return {int(number): int(label) for number, _, label in (part.partition("=") for part in text.split(","))}
    except ValueError:
        raise SettingsError(f'--map {text!r} is not allowed: write "1=1,2=2"; 0 leaves a label out') from None


def files_of(path: Path) -> Iterator[tuple[Path | None, Path]]:
    """Yield (image, labels) of NIfTI pairs and (None, file) of anything else at or below a path. Raises Missing."""
    if not path.exists():
        raise Missing(f"{path} is not there")
    if path.is_file():
        yield image_of(path) if is_nifti(path) else None, path
    elif pairs := pairs_in(path):
        yield from pairs.values()
    else:
        for one in sorted(one for one in path.rglob("*") if one.is_file()):
            yield image_of(one) if is_nifti(one) else None, one


def changed_at(path: Path) -> datetime:
    """Return when a file was last changed."""
    return datetime.fromtimestamp(path.stat().st_mtime, UTC)
