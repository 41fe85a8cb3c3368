"""A phantom patient through the whole line of the running appliance, to one destination, and read back there.

Everything is real but the patient: association, spool, route, model, results, delivery, commitment. It never sends
a route's results elsewhere than the route says.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from appliance.catalogue import Catalogue, events, overview
from appliance.catalogue.gauges import REHEARSAL
from appliance.errors import CurieError, DeliveryFailed, Missing, NotAccepted
from appliance.settings import Destination, Settings
from dicom_nodes import read_back, sender
from dicom_nodes.admission import entry_of
from dicom_nodes.header import read_header
from dicom_nodes.result_classes import BY_ROLE
from dicom_nodes.sample import template_axial, write_series
from workers.forgetting import forget
from workers.sending import probe

PATIENT_ID, PATIENT_NAME = "CURIE-REHEARSAL", "Rehearsal^Phantom"
ENDED = ("committed", "delivered", "rejected", "withdrawn")


@dataclass(frozen=True)
class Step:
    """One thing that was tried."""

    name: str
    ok: bool
    text: str

    def record(self) -> dict[str, Any]:
        """Return the step as a JSON record."""
        return asdict(self)


@dataclass
class Rehearsal:
    """One phantom patient on its way."""

    settings: Settings
    catalogue: Catalogue
    destination: Destination
    longest_s: float = 900.0
    study: str = ""

    def steps(self) -> Iterator[Step]:
        """Yield each step as it is done; the first that fails is the last."""
        for name, one in (
            ("association", self._ask), ("received", self._send), ("read", self._read), ("delivered", self._deliver),
            ("held there", self._look), ("the same there", self._compare),
        ):  # fmt: skip
            try:
                step = Step(name, True, one())
            except CurieError as error:
                step = Step(name, False, str(error))
            yield step
            if not step.ok:
                return

    def _ask(self) -> str:
        return probe(
            self.destination, self.settings.sender.ae_title, [BY_ROLE[one] for one in self.destination.results]
        )

    def _send(self) -> str:
        with tempfile.TemporaryDirectory(prefix="curie-rehearsal-") as folder:
            told = {"PatientID": PATIENT_ID, "PatientName": PATIENT_NAME, "StudyDescription": "curie rehearse"}
            voxels, affine = template_axial("t1")
            files = write_series(Path(folder), voxels, affine, f"rehearsal-{os.urandom(8).hex()}", **told)
            study = str(read_header(files[0]).StudyInstanceUID)
            with self.catalogue.write() as connection:
                events.record(connection, REHEARSAL, study=study)
            title = self._store(files)
            self.study = study
        return f"{len(files)} MR images of a head that is nobody's, as {title}, study {self.study}"

    def _store(self, files: list[Path]) -> str:
        """Send the images as a source that may call from this host; returns its AE title. Raises Missing."""
        ourselves = sender.our_receiver(self.settings)
        for title in (ourselves.ae_title, *(one.ae_title for one in self.settings.sources if not one.fingerprint)):
            try:
                with sender.associate(ourselves, title, sender.series_contexts(files)) as association:
                    for file in files:
                        sender.store_as_is(association, file)
                return title
            except DeliveryFailed:
                continue
        own = entry_of(ourselves.ae_title, ourselves.host)
        raise Missing(f"no source may send from this host: add {own}, then start the receiver anew")

    def _read(self) -> str:
        """Wait until a package has made results for the destination. Raises Missing with the reasons."""

        def made() -> str:
            told = self._told()
            found = [one for one in told if self._results(one)]
            if found:
                one = found[0]
                return f"{one['package']}@{one['version']} on {one['engine']}: {len(one['findings'])} findings"
            if told and all(one["outcome"] != "pending" for one in told):
                why = "; ".join(f"{one['route']}: {one['outcome']}, {one['reason']}" for one in told)
                raise Missing(f"no result for {self.destination.name} ({why}); name it in a route that takes MR heads")
            return ""

        return self._until(made, "no results yet: `curie status` shows the workers")

    def _deliver(self) -> str:
        best = "committed" if self.destination.commits else "delivered"

        def there() -> str:
            sent = self._all()
            bad = [one for one in sent if one["state"] == "rejected"]
            if bad:
                raise Missing(f"{bad[0]['role']} was rejected: {bad[0]['answer']}")
            done = [one for one in sent if one["state"] in (best, "withdrawn")]
            kept = [one["role"] for one in sent if one["state"] == best]
            return f"{', '.join(kept)} {best}" if kept and len(done) == len(sent) else ""

        return self._until(there, "not delivered yet: `curie explain` shows the answers")

    def _look(self) -> str:
        sent = self._sent()
        if not (self.destination.find or self.destination.url):
            return "not asked: the destination has no `find = true`"
        missing = []
        for series in {one["series_instance_uid"] for one in sent}:
            uids = {one["sop_instance_uid"] for one in sent if one["series_instance_uid"] == series}
            there = read_back.instances_of(self.destination, self.settings.sender.ae_title, self.study, series)
            missing += sorted(uids - there)
        if missing:
            raise Missing(f"it does not know {len(missing)} of {len(sent)} results, as {missing[0]}")
        return f"it knows all {len(sent)} results"

    def _compare(self) -> str:
        if self.destination.url or not self.destination.find:
            return "not fetched: only by C-GET, where the destination has `find = true`"
        sent = self._sent()
        classes = sorted({one["sop_class_uid"] for one in sent})
        try:
            found = read_back.get(self.destination, self.settings.sender.ae_title, self.study, classes)
        except NotAccepted as error:
            return f"not fetched: {error}"
        for one in sent:
            path = self.settings.results_dir / one["path"]
            if not read_back.is_same(found.get(one["sop_instance_uid"]), path):
                raise DeliveryFailed(f"{one['role']} there is not what was sent")
        return f"{len(sent)} results fetched by C-GET are what was sent"

    def clear(self, who: str) -> str:
        """Forget the phantom here; returns what is left to somebody else."""
        forget(self.settings, self.catalogue, self.study, who, "rehearsal")
        left = (
            f"patient {PATIENT_ID} stays in {self.destination.name}: delete it there by hand, DICOM has no word for it"
        )
        return f"images and results are deleted here; {left}"

    def _told(self) -> list[dict[str, Any]]:
        try:
            with self.catalogue.read() as connection:
                known = overview.find_study(connection, self.study)
                found: list[dict[str, Any]] = overview.explain(connection, known)["outcomes"]
        except Missing:
            return []  # it is not indexed yet
        return found

    def _sent(self) -> list[dict[str, Any]]:
        return [one for one in self._all() if one["state"] != "withdrawn"]

    def _all(self) -> list[dict[str, Any]]:
        """Return each result once, be its job that of several routes."""
        found = {one["sop_instance_uid"]: one for outcome in self._told() for one in self._results(outcome)}
        return list(found.values())

    def _results(self, outcome: dict[str, Any]) -> list[dict[str, Any]]:
        """Return the results of an outcome that go to the destination, each with its state there."""
        return [
            one | {"state": way["state"], "answer": way["answer"]}
            for one in outcome["results"]
            for way in one["destinations"]
            if way["destination"] == self.destination.name
        ]

    def _until(self, found: Callable[[], str], otherwise: str) -> str:
        deadline = time.monotonic() + self.longest_s
        while time.monotonic() < deadline:
            if text := found():
                return text
            time.sleep(0.5)
        raise Missing(f"{otherwise} (waited {self.longest_s:.0f} s)")
