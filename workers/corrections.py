"""What comes back about our results: a radiologist's SEG becomes labelled cases, a report is noted. Never silently.

A thread of dispatch, beside the way of acknowledgements. An object is decided on once, with its reason; what is odd
about it ends as that reason. It must never log an author, nor a text that somebody typed.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

from appliance.catalogue import Catalogue, corrections, training
from appliance.catalogue.connection import now
from appliance.catalogue.corrections import MOST_TRIES, Answered, HeldSeries, Waiting
from appliance.errors import CurieError, ResultRejected
from appliance.log import logger
from appliance.process import keep_stepping
from appliance.settings import Settings
from appliance.training_set import patient_hash
from dicom_nodes.label_objects import SEGMENTATIONS, LabelObject, read_label_object
from dicom_nodes.label_reader import read_labels
from dicom_nodes.volume_reader import read_volume
from models.registry import Registry
from workers.kept_cases import Told, refuse_opted_out, write_cases
from workers.labelling import check_complete, labels_of, regions_of, wanted, why_not_trainable

POLL_S = 2.0
UNRELATED = "it refers to nothing that a result of ours is about"


class NotOurs(Exception):
    """An object speaks of no result of ours."""


def start(settings: Settings, catalogue: Catalogue, stop: threading.Event) -> None:
    """Look at what comes back in a thread of its own until told to stop."""
    looking = Corrections(settings, catalogue)
    threading.Thread(target=keep_stepping, args=(looking.step, stop, POLL_S), daemon=True).start()


class Corrections:
    """One object after another."""

    def __init__(self, settings: Settings, catalogue: Catalogue) -> None:
        self.settings = settings
        self.catalogue = catalogue
        self.registry = Registry(settings, catalogue)

    def step(self) -> None:
        """Decide on all objects whose studies rest."""
        while self._next():
            pass

    def _next(self) -> bool:
        with self.catalogue.write() as connection:
            one = corrections.begin_next(connection)
        if one is None:
            return False
        about: Answered | None = None
        try:
            if one.tries > MOST_TRIES:
                raise ResultRejected("reading it ended the process several times")
            told = read_label_object(self.settings.spool_dir / one.path)
            about = self._about(one, told)
            self._take(one, told, about)
        except NotOurs:
            is_label = told.sop_class_uid in SEGMENTATIONS and not told.own
            self._end(one, "not_kept" if is_label else "unrelated", UNRELATED, None)
        except (CurieError, FileNotFoundError) as error:
            reason = "its file is gone" if isinstance(error, FileNotFoundError) else str(error)
            self._end(one, "not_kept", reason, about)
        return True

    def _about(self, one: Waiting, told: LabelObject) -> Answered:
        """Return the job of which an object speaks. Raises NotOurs, or ResultRejected where it may be several."""
        with self.catalogue.read() as connection:
            answers = corrections.answered(connection, one.study_instance_uid)
        found = spoken_of(told, answers)
        if not found or (told.own and not _tracked(told, found[0])):
            raise NotOurs
        if len(found) > 1:
            raise ResultRejected(f"it may speak of {len(found)} results, and does not say of which")
        return found[0]

    def _take(self, one: Waiting, told: LabelObject, about: Answered) -> None:
        if told.sop_class_uid not in SEGMENTATIONS:
            self._end(one, "noted", "a report that refers to our result; it holds no label", about)
            return
        if told.own:
            raise ResultRejected("it says that this software made it, so nobody knows who changed it")
        federation = self.settings.federation
        if federation is None or about.package not in federation.packages:
            raise ResultRejected(f"packages under [federation] does not name {about.package}: no case is kept of it")
        self._keep(one, told, about)

    def _keep(self, one: Waiting, told: LabelObject, about: Answered) -> None:
        """Keep a SEG as cases: files first, then all rows in one transaction."""
        declared = self.registry.of_digest(about.package_digest).manifest
        if refused := why_not_trainable(declared):
            raise ResultRejected(refused)
        held = self._images(told, about)
        patient = patient_hash(self.settings, held.patient_key)
        refuse_opted_out(self.catalogue, patient)
        volume = read_volume([self.settings.spool_dir / path for path in held.paths])
        regions = regions_of(declared, volume)
        known = wanted(declared, regions)
        tracked = {each["tracking_uid"]: each["segment"] for each in about.findings if each["segment"]}
        numbers = labels_of(told.structures, known, tracked)
        answered = {each["segment"] for each in about.findings if each["segment"] and each["present"]}
        check_complete(numbers.values(), [each for each in known if each.label in answered])
        labels = read_labels(self.settings.spool_dir / one.path, volume, numbers)
        from_whom = Told(
            "correction", one.sop_instance_uid, told.author, told.at or one.received_at, one.study_instance_uid,
            about.series_instance_uid, patient, held.scanner,
        )  # fmt: skip
        rows = write_cases(self.settings, declared, volume, labels, regions, from_whom)
        if not rows:
            raise ResultRejected("it holds no voxel of any structure")
        with self.catalogue.write() as connection:
            refused = training.keep(connection, rows, now())
            if refused in ("", training.KNOWN):
                corrections.decide(connection, one, "kept", refused, now(), about=about)
        if refused not in ("", training.KNOWN):
            raise ResultRejected(refused)
        logger().info("correction_kept", study=one.study_instance_uid, package=about.package, cases=len(rows))

    def _images(self, told: LabelObject, about: Answered) -> HeldSeries:
        with self.catalogue.read() as connection:
            held = corrections.held_series(connection, told.study_instance_uid, about.series_instance_uid)
        if held is None:
            raise ResultRejected("the images it refers to are not in the spool any more")
        if held.patient_key != told.patient_key:
            raise ResultRejected("it names another patient than the images")
        return held

    def _end(self, one: Waiting, state: str, reason: str, about: Answered | None) -> None:
        with self.catalogue.write() as connection:
            corrections.decide(connection, one, state, reason, now(), about=about)
        if state != "unrelated":
            package = about.package if about else ""
            logger().info(f"correction_{state}", study=one.study_instance_uid, package=package, reason=reason)


def spoken_of(told: LabelObject, answers: Sequence[Answered]) -> list[Answered]:
    """Return the results of which an object may speak: several where it does not say.

    A report speaks of those that it names. A SEG speaks of those whose tracking UIDs it bears; without any, of those
    whose structures' codes it has on the same images. Of several, those of a series that it refers to come first.
    """
    if told.sop_class_uid not in SEGMENTATIONS:
        named = [one for one in answers if told.references & (one.results | _tracking_uids(one))]
        return named[:1]
    found = [one for one in answers if _tracked(told, one)]
    found = found or [one for one in answers if _same_images(told, one) and _same_codes(told, one)]
    return [one for one in found if one.series_instance_uid in told.series] or found


def _tracking_uids(one: Answered) -> frozenset[str]:
    return frozenset(each["tracking_uid"] for each in one.findings)


def _tracked(told: LabelObject, one: Answered) -> bool:
    return bool({each.tracking_uid for each in told.structures if each.tracking_uid} & _tracking_uids(one))


def _same_images(told: LabelObject, one: Answered) -> bool:
    """Tell whether a SEG refers to a result's series, or lies in the same Frame of Reference."""
    same_frame = bool(one.frame_of_reference) and told.frame_of_reference == one.frame_of_reference
    return one.series_instance_uid in told.series or same_frame


def _same_codes(told: LabelObject, one: Answered) -> bool:
    """Tell whether a SEG has a segment of each structure that a result found, by code."""
    there = {each.code for each in told.structures}
    found = {(each["code"]["value"], each["code"]["scheme"]) for each in one.findings if each["segment"]}
    return bool(found) and found <= there
