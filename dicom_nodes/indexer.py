"""Spool files → catalogue rows, in batches, after the acknowledgement. One indexer a host writes instances.

What a repeated SOP Instance UID means (rule 3 of the design): same content in any encoding is counted; same pixels
under another header is a new revision; other pixels are a conflict, set aside, and block the study's results.
It must never lose a file: what cannot be read is set aside with a reason.
"""

from __future__ import annotations

import hashlib
import queue
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from pydicom import Dataset
from pydicom.datadict import dictionary_VR, tag_for_keyword
from sqlalchemy import Connection
from sqlalchemy.exc import InterfaceError, OperationalError

from appliance.catalogue import Catalogue, events, receiving
from appliance.catalogue.connection import now
from appliance.catalogue.receiving import KnownInstance, ReceivedInstance
from appliance.errors import CurieError, InstanceRefused
from appliance.log import logger
from dicom_nodes.contexts import UNCOMPRESSED, is_document, is_uid
from dicom_nodes.decode import decoded_pixel_digest
from dicom_nodes.digest import header_digest, pixel_digest
from dicom_nodes.header import attributes, geometry, read_open
from dicom_nodes.result_files import is_own_result
from dicom_nodes.spool import Spool
from dicom_nodes.values import text

BATCH = 100  # rows in one transaction
LINGER_S = 0.05  # how long a batch waits for more
LEASE_S = 20.0
RENEW_S = 5.0
LEADS_TO_A_PERSON = {"AdmissionID", "IssuerOfPatientID", "MilitaryRank", "CountryOfResidence", "Occupation"}
KEPT_OF_PATIENT = {"PatientSex", "PatientAge", "PatientPosition", "PatientOrientation"}


@dataclass(frozen=True)
class AssociationOpened:
    """A peer's association was accepted."""

    id: str
    ae_title: str
    address: str


@dataclass(frozen=True)
class AssociationEnded:
    """An association was released, or aborted."""

    id: str
    aborted: bool


@dataclass(frozen=True)
class FileKept:
    """A file was acknowledged."""

    path: str
    association_id: str = ""


Arrival = AssociationOpened | AssociationEnded | FileKept


@dataclass(frozen=True)
class Decided:
    """A file as read, and what becomes of it: the row's state, or `same` when the content was known."""

    row: ReceivedInstance
    verdict: str  # new, revision, conflict, same or unreadable
    known: KnownInstance | None = None
    reason: str = ""


class Indexer(threading.Thread):
    """The thread that turns arrivals into rows, in the order in which they were put."""

    def __init__(self, catalogue: Catalogue, spool: Spool) -> None:
        super().__init__(name="indexer", daemon=True)
        self.catalogue = catalogue
        self.spool = spool
        self.arrivals: queue.Queue[Arrival | None] = queue.Queue()
        self._open: set[str] = set()
        self._renewed = 0.0

    def put(self, arrival: Arrival) -> None:
        """Hand one arrival over; returns at once."""
        self.arrivals.put(arrival)

    def close(self) -> None:
        """Index what was put so far, then end."""
        self.arrivals.put(None)
        self.join(timeout=15)

    def run(self) -> None:
        """Take batches until closed; a catalogue that does not answer is asked again without end."""
        going = True
        while going:
            batch, going = self._next_batch()
            self._until_written(batch)

    def _next_batch(self) -> tuple[list[Arrival], bool]:
        batch: list[Arrival] = []
        deadline = time.monotonic() + RENEW_S
        while len(batch) < BATCH and (left := deadline - time.monotonic()) > 0:
            try:
                arrival = self.arrivals.get(timeout=left)
            except queue.Empty:
                break
            if arrival is None:
                return batch, False
            if not batch:
                deadline = min(deadline, time.monotonic() + LINGER_S)
            batch.append(arrival)
        return batch, True

    def _until_written(self, batch: Sequence[Arrival]) -> None:
        wait_s = 0.2
        while True:
            try:
                self._write(batch)
                return
            except (OperationalError, InterfaceError) as error:  # the catalogue is away: ask again without end
                logger().error("catalogue_away", cause=type(error).__name__, waiting=len(batch))
                time.sleep(wait_s)
                wait_s = min(wait_s * 2, 10)
            except Exception as error:  # noqa: BLE001 - the edge of this thread: one bad file must not stop the others
                logger().error("indexing_failed", cause=type(error).__name__, waiting=len(batch))
                if len(batch) == 1:
                    self._give_up(batch[0])
                    return
                for arrival in batch:
                    self._until_written([arrival])
                return

    def _give_up(self, arrival: Arrival) -> None:
        """Set aside a file whose row the catalogue does not take; nothing is deleted."""
        if isinstance(arrival, FileKept):
            self.spool.set_aside(arrival.path)
            logger().error("instance_set_aside", file=arrival.path, reason="its row could not be written")

    def _write(self, batch: Sequence[Arrival]) -> None:
        decided = index_files(self.catalogue, self.spool, [a for a in batch if isinstance(a, FileKept)])
        at = now()
        with self.catalogue.write() as connection:
            for opened in batch:
                if isinstance(opened, AssociationOpened):
                    receiving.open_association(connection, opened.id, opened.ae_title, opened.address, at, LEASE_S)
                    self._open.add(opened.id)
            _write_files(connection, decided)
            for ended in batch:
                if isinstance(ended, AssociationEnded):
                    receiving.end_association(connection, ended.id, ended.aborted, at)
                    self._open.discard(ended.id)
            if self._open and time.monotonic() - self._renewed > RENEW_S:
                receiving.renew_associations(connection, sorted(self._open), at, LEASE_S)
                self._renewed = time.monotonic()
        _drop_copies(self.spool, decided)

    def adopt(self) -> int:
        """Index the files that a crash left without rows; set torn ones aside. Returns how many were adopted."""
        with self.catalogue.write() as connection:
            receiving.end_orphaned_associations(connection, now())
        with self.catalogue.read() as connection:
            known = receiving.paths_known(connection)
        adopted = 0
        for path in [path for path in self.spool.files() if path not in known]:
            if self.spool.is_whole(path):
                self.put(FileKept(path))
                adopted += 1
            else:
                self.spool.set_aside(path)
                logger().warning("torn_file_set_aside", file=path)
        return adopted


def index_files(catalogue: Catalogue, spool: Spool, files: Sequence[FileKept]) -> list[Decided]:
    """Read files and decide what each one means; later ones of a batch see the earlier ones."""
    decided: list[Decided] = []
    with catalogue.read() as connection:
        for file in files:
            try:
                row, reason = read_instance(spool.folder, file)
            except FileNotFoundError:
                continue  # a copy of known content, dropped when its first arrival was counted
            if row.state == "unreadable":
                logger().warning("instance_set_aside", file=row.path, reason=reason)
                decided.append(Decided(row, "unreadable", None, reason))
                continue
            if receiving.is_known_result(connection, row.sop_instance_uid):
                row = _as_result(row)
            known = receiving.known_instance(connection, row.sop_instance_uid)
            earlier = next((d.row for d in reversed(decided) if _same_uid(d, row)), None)
            decided.append(_decide(spool.folder, row, _known_of(earlier) or known))
    return decided


def _same_uid(decided: Decided, row: ReceivedInstance) -> bool:
    return decided.row.sop_instance_uid == row.sop_instance_uid and decided.verdict in ("new", "revision")


def _known_of(row: ReceivedInstance | None) -> KnownInstance | None:
    if row is None:
        return None
    return KnownInstance(0, 0, row.path, row.header_digest, row.pixel_digest, row.transfer_syntax_uid, row.state)


def _as_result(row: ReceivedInstance) -> ReceivedInstance:
    return replace(row, state="result", geometry=[])


def _decide(folder: Path, row: ReceivedInstance, known: KnownInstance | None) -> Decided:
    if known is None:
        return Decided(row, "new")
    pixels = row.pixel_digest == known.pixel_digest or _same_decoded(folder, row, known)
    if pixels is None:
        return Decided(row, "revision", known)  # the known file is gone: nothing says that the pixels differ
    if pixels and row.header_digest == known.header_digest:
        return Decided(row, "same", known)
    if pixels or row.state != "current":
        return Decided(row, "revision", known)
    return Decided(row, "conflict", known)


def _same_decoded(folder: Path, row: ReceivedInstance, known: KnownInstance) -> bool | None:
    """Compare decoded pixels where one of two encodings is compressed; None when the known file is gone."""
    if not (folder / known.path).exists():
        return None
    if row.transfer_syntax_uid in UNCOMPRESSED and known.transfer_syntax_uid in UNCOMPRESSED:
        return False
    try:
        return decoded_pixel_digest(folder / row.path) == decoded_pixel_digest(folder / known.path)
    except (CurieError, OSError):
        return False


def _write_files(connection: Connection, decided: Sequence[Decided]) -> None:
    grown: dict[str, int] = {}
    for one in decided:
        _write_file(connection, one)
        if one.verdict != "same" and one.row.study_instance_uid:
            grown[one.row.study_instance_uid] = grown.get(one.row.study_instance_uid, 0) + 1
    for study, count in grown.items():
        events.record(connection, "instance_indexed", study=study, count=count)


def _write_file(connection: Connection, one: Decided) -> None:
    row = one.row
    current = receiving.known_instance(connection, row.sop_instance_uid)
    if one.verdict == "same" and current:
        receiving.count_again(connection, current.id)
        if current.file_removed:
            receiving.keep_file(connection, current.id, row)
        return
    revision = receiving.last_revision(connection, row.sop_instance_uid) + 1
    state = "conflict" if one.verdict == "conflict" else row.state
    if _is_at_its_place(connection, row, state, revision, current):
        return
    if one.verdict == "revision" and current:
        receiving.replace_instance(connection, current.id)
    receiving.add_instance(connection, row, revision, state)
    if state == "unreadable":
        events.record(connection, "instance_set_aside", study=row.study_instance_uid, reason=one.reason)
        return
    if state == "conflict":
        logger().error("conflicting_pixels", revision=revision, study=row.study_instance_uid)
        events.record(connection, "instance_conflicted", study=row.study_instance_uid, revision=revision)
    if state == "result" or (state == "document" and receiving.is_complete(connection, row.study_instance_uid)):
        return
    receiving.touch_study(connection, row)
    if state in ("current", "conflict"):
        receiving.touch_series(connection, row)
    if row.association_id:
        receiving.link_association(connection, row.study_instance_uid, row.association_id)


def _is_at_its_place(
    connection: Connection, row: ReceivedInstance, state: str, revision: int, current: KnownInstance | None
) -> bool:
    """Count a file that has a row already, whatever it meant; an older header that comes again counts from now on."""
    known = receiving.row_at(connection, row.path)
    if known is None:
        return False
    identity, known_state = known
    receiving.count_again(connection, identity)
    receiving.keep_file(connection, identity, row)
    if known_state == "replaced" and state == "current":
        if current:
            receiving.replace_instance(connection, current.id)
        receiving.make_current(connection, identity, revision)
        receiving.touch_study(connection, row)
    return True


def _drop_copies(spool: Spool, decided: Sequence[Decided]) -> None:
    """Delete second copies of a known content, once its count is written."""
    for one in decided:
        if one.verdict == "same" and one.known and one.known.path != one.row.path and not one.known.file_removed:
            spool.remove(one.row.path)


def read_instance(folder: Path, file: FileKept) -> tuple[ReceivedInstance, str]:
    """Return the row of a spool file; one that cannot be read has the state `unreadable`, and a reason."""
    path = folder / file.path
    stat = path.stat()
    # an adopted file lay there unseen: its study is not quiet because the machine was off
    at = datetime.fromtimestamp(stat.st_mtime, UTC) if file.association_id else now()
    try:
        with path.open("rb") as stream:
            ds = read_open(stream, pixels=True)
        return _row(ds, file, stat.st_size, at), ""
    except Exception as error:  # noqa: BLE001 - whatever a file does to its reader, it is set aside and nothing stops
        reason = str(error) if isinstance(error, InstanceRefused) else f"cannot be read ({type(error).__name__})"
        digest = Path(file.path).name[:64]
        row = ReceivedInstance(
            sop_instance_uid=digest, sop_class_uid="", transfer_syntax_uid="", study_instance_uid="",
            series_instance_uid="", path=file.path, bytes=stat.st_size, header_digest="", pixel_digest="",
            patient_key="", state="unreadable", received_at=at, association_id=file.association_id,
        )  # fmt: skip
        return row, reason


def _row(ds: Dataset, file: FileKept, size: int, at: datetime) -> ReceivedInstance:
    uids = {tag: text(ds, tag) for tag in (0x00080018, 0x00080016, 0x0020000D, 0x0020000E)}
    if not all(is_uid(uid) for uid in uids.values()):
        raise InstanceRefused("a study, series or instance UID is absent or not a UID", InstanceRefused.UNREADABLE)
    sop_class = uids[0x00080016]
    state = "document" if is_document(sop_class) else "current"
    if is_own_result(ds):
        state = "result"
    return ReceivedInstance(
        sop_instance_uid=uids[0x00080018],
        sop_class_uid=sop_class,
        transfer_syntax_uid=str(ds.file_meta.get("TransferSyntaxUID", "")),
        study_instance_uid=uids[0x0020000D],
        series_instance_uid=uids[0x0020000E],
        path=file.path,
        bytes=size,
        header_digest=header_digest(ds),
        pixel_digest=pixel_digest(ds),
        patient_key=patient_key(ds),
        state=state,
        received_at=at,
        association_id=file.association_id,
        modality=text(ds, 0x00080060),
        accession_number=text(ds, 0x00080050)[:64],
        attributes=_routing_attributes(ds) if state == "current" else {},
        geometry=[asdict(plane) for plane in geometry(ds)] if state == "current" else [],
    )


def _routing_attributes(ds: Dataset) -> dict[str, str | list[str]]:
    """Return what routes may match on: nothing that names a person."""
    return {keyword: value for keyword, value in attributes(ds).items() if is_routable(keyword)}


def is_routable(keyword: str) -> bool:
    """Return whether routes may match on an attribute: it names no person and leads to none."""
    if keyword in KEPT_OF_PATIENT:
        return True
    tag = tag_for_keyword(keyword)
    if tag is None or dictionary_VR(tag) == "PN" or keyword in LEADS_TO_A_PERSON:
        return False
    return not keyword.startswith(("Patient", "OtherPatient", "Referring"))


def patient_key(ds: Dataset) -> str:
    """Return a digest that tells patients apart: the Patient ID, or without one name and birth date."""
    identity = [text(ds, 0x00100020).strip()]
    if not identity[0]:
        identity += [text(ds, 0x00100010).strip(), text(ds, 0x00100030).strip()]
    return hashlib.sha256("\x1f".join(identity).encode()).hexdigest()
