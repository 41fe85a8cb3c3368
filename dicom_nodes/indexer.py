"""Spool files → catalogue rows, in batches, after the acknowledgement. One indexer a host writes instances.

What a repeated SOP Instance UID means (rule 3 of the design): same content in any encoding is counted; same pixels
under another header is a new revision; other pixels are a conflict, set aside, and block the study's results.
It must never lose a file: what cannot be read is set aside with a reason.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import dropwhile
from pathlib import Path

from sqlalchemy import Connection
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError

from appliance.catalogue import Catalogue, corrections, events, forgetting, receiving, rejections, retention, studies
from appliance.catalogue.connection import now
from appliance.catalogue.receiving import KnownInstance, ReceivedInstance
from appliance.errors import CurieError
from appliance.log import logger
from dicom_nodes import announcement
from dicom_nodes.adoption import left_behind, set_aside
from dicom_nodes.arrivals import (
    Arrival,
    AssociationEnded,
    AssociationOpened,
    AssociationsAlive,
    FileKept,
    MessageKept,
    decode_arrival,
    encode_arrival,
)
from dicom_nodes.contexts import UNCOMPRESSED
from dicom_nodes.decode import decoded_pixel_digest
from dicom_nodes.instance_reader import read_instance
from dicom_nodes.label_objects import CORRECTING
from dicom_nodes.spool import Spool

__all__ = [
    "Arrival",
    "AssociationEnded",
    "AssociationOpened",
    "AssociationsAlive",
    "FileKept",
    "Indexer",
    "MessageKept",
    "decode_arrival",
    "encode_arrival",
    "index_files",
]

BATCH = 100  # rows in one transaction
LINGER_S = 0.05  # how long a batch waits for more
BURST_GAP_S, BURST_S = 0.1, 1.0  # a pause ends a burst; no arrival waits longer for the end of one
LEASE_S = 20.0  # of an association, renewed by `AssociationsAlive`


@dataclass(frozen=True)
class Decided:
    """A file as read, and what becomes of it: the row's state, or `same` when the content was known."""

    row: ReceivedInstance
    verdict: str  # new, revision, conflict, same, returned (the same of a forgotten study) or unreadable
    known: KnownInstance | None = None
    reason: str = ""


class Indexer(threading.Thread):
    """The thread that turns arrivals into rows, in the order in which they were put."""

    def __init__(self, catalogue: Catalogue, spool: Spool) -> None:
        super().__init__(name="indexer", daemon=True)
        self.catalogue = catalogue
        self.spool = spool
        self.arrivals: queue.Queue[Arrival | None] = queue.Queue()
        self._unwritten: deque[float] = deque()  # when each arrival that is not yet written was put
        self._put_at = 0.0
        self._closing = False

    def put(self, arrival: Arrival) -> None:
        """Hand one arrival over; returns at once."""
        self._put_at = time.monotonic()
        self._unwritten.append(self._put_at)
        self.arrivals.put(arrival)

    def behind_s(self) -> float:
        """Return the seconds since the oldest arrival that is not yet written was put; 0 when there is none."""
        try:
            return time.monotonic() - self._unwritten[0]
        except IndexError:
            return 0.0

    def close(self) -> None:
        """Index what was put so far, then end."""
        self._closing = True
        self.arrivals.put(None)
        self.join(timeout=15)

    def run(self) -> None:
        """Take batches until closed; a catalogue that does not answer is asked again without end."""
        going = True
        while going:
            batch, going = self._next_batch()
            self._until_written(batch)
            for _ in batch:
                self._unwritten.popleft()

    def _let_a_burst_pass(self) -> None:
        """Receiving comes first: wait while arrivals keep coming, as long as the oldest has not waited long."""
        while time.monotonic() - self._put_at < BURST_GAP_S and self.behind_s() < BURST_S and not self._closing:
            time.sleep(LINGER_S)

    def _next_batch(self) -> tuple[list[Arrival], bool]:
        """Wait for an arrival; return it and what came with it, and whether to go on."""
        batch: list[Arrival] = []
        arrival = self.arrivals.get()
        self._let_a_burst_pass()
        while arrival is not None:
            batch.append(arrival)
            if len(batch) == BATCH or self.arrivals.empty():
                return batch, True
            arrival = self.arrivals.get()
        return batch, False

    def _until_written(self, batch: Sequence[Arrival]) -> None:
        wait_s = 0.2
        while True:
            try:
                self._write(batch)
                return
            except (DBAPIError, OSError) as error:  # catalogue or disk are in trouble: ask again, without end
                if isinstance(error, DataError | IntegrityError):
                    self._one_by_one(batch, error)
                    return
                logger().error("catalogue_or_disk_away", cause=type(error).__name__, waiting=len(batch))
                time.sleep(wait_s)
                wait_s = min(wait_s * 2, 10)
            except Exception as error:  # noqa: BLE001 - the edge of this thread: one bad file must not stop the others
                self._one_by_one(batch, error)
                return

    def _one_by_one(self, batch: Sequence[Arrival], error: Exception) -> None:
        """Find the one that the catalogue does not take, and set it aside."""
        logger().error("indexing_failed", cause=type(error).__name__, waiting=len(batch))
        if len(batch) == 1:
            self._give_up(batch[0])
            return
        for arrival in batch:
            self._until_written([arrival])

    def _give_up(self, arrival: Arrival) -> None:
        """Set aside a file whose rows the catalogue does not take; nothing is deleted."""
        if isinstance(arrival, FileKept | MessageKept):
            set_aside(self.spool, arrival.path, "its rows could not be written")

    def _write(self, batch: Sequence[Arrival]) -> None:
        decided = index_files(self.catalogue, self.spool, [a for a in batch if isinstance(a, FileKept)])
        messages = self._read_messages(batch)
        at = now()
        with self.catalogue.write() as connection:
            for one in batch:
                if isinstance(one, AssociationOpened):
                    receiving.open_association(connection, one.id, one.ae_title, one.address, at, LEASE_S)
                elif isinstance(one, AssociationsAlive):
                    receiving.renew_associations(connection, one.ids, at, LEASE_S)
            write_files(connection, decided)
            for meaning in messages.values():
                announcement.write(connection, meaning)
            for one in batch:
                if isinstance(one, AssociationEnded):
                    receiving.end_association(connection, one.id, one.aborted, at)
        _drop_copies(self.spool, decided)
        for path in messages:
            self.spool.remove(path)

    def _read_messages(self, batch: Sequence[Arrival]) -> dict[str, announcement.Meaning]:
        """Return what the messages mean, by path; one that cannot be read is set aside."""
        found = {}
        for path in [one.path for one in batch if isinstance(one, MessageKept)]:
            try:
                found[path] = announcement.read(self.spool.folder, path)
            except FileNotFoundError:
                continue  # it was told twice, and is done
            except ValueError as error:
                set_aside(self.spool, path, str(error))
        return found

    def adopt(self) -> int:
        """Index files and messages that have no rows. Returns how many; it may be called again while this runs."""
        found = left_behind(self.catalogue, self.spool)
        for arrival in found:
            self.put(arrival)
        return len(found)


def index_files(catalogue: Catalogue, spool: Spool, files: Sequence[FileKept]) -> list[Decided]:
    """Read files and decide what each one means; later ones of a batch see the earlier ones."""
    decided: list[Decided] = []
    if not files:
        return decided
    with catalogue.read() as connection:
        rows = _read_files(connection, spool.folder, files)
        uids = [row.sop_instance_uid for row, _ in rows]
        known = receiving.known_instances(connection, uids)
        results = receiving.known_results(connection, uids)
    for row, reason in rows:
        if row.state == "unreadable":
            logger().warning("instance_set_aside", file=row.path, reason=reason)
            decided.append(Decided(row, "unreadable", None, reason))
            continue
        if row.sop_instance_uid in results:
            row = replace(row, state="result", geometry=[])
        one = _decide(spool.folder, row, known.get(row.sop_instance_uid))
        if one.verdict in ("new", "revision", "returned"):
            known[row.sop_instance_uid] = _known_of(row)
        decided.append(one)
    return decided


def _read_files(connection: Connection, folder: Path, files: Sequence[FileKept]) -> list[tuple[ReceivedInstance, str]]:
    """Return the row of each file, and why it is unreadable if so; attributes for the first image of a series only."""
    here = receiving.paths_known(connection, [file.path for file in files if file.adopted])
    seen: set[tuple[str, str]] = set()

    def is_known(study: str, series: str) -> bool:
        return (study, series) in seen or studies.has_series(connection, study, series)

    rows = []
    for file in files:
        if file.adopted and file.path in here:
            continue  # the receiver told of it, too: it did not come twice
        here.add(file.path)
        try:
            row, reason = read_instance(folder, file, is_known)
        except FileNotFoundError:
            continue  # a copy of known content, dropped when its first arrival was counted
        rows.append((row, reason))
        if row.state == "current":
            seen.add((row.study_instance_uid, row.series_instance_uid))
    return rows


def _known_of(row: ReceivedInstance) -> KnownInstance:
    return KnownInstance(0, 0, row.path, row.header_digest, row.pixel_digest, row.transfer_syntax_uid, row.state)


def _decide(folder: Path, row: ReceivedInstance, known: KnownInstance | None) -> Decided:
    if known is None:
        return Decided(row, "new")
    pixels = row.pixel_digest == known.pixel_digest or _same_decoded(folder, row, known)
    if pixels is None:
        return Decided(row, "revision", known)  # the known file is gone: nothing says that the pixels differ
    if pixels and row.header_digest == known.header_digest:
        return Decided(row, "returned" if known.state == "forgotten" else "same", known)
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


def write_files(connection: Connection, decided: Sequence[Decided]) -> None:
    """Write what was decided, in its order: at once what is all new, one by one what has a row of some kind."""
    known = receiving.known_at_all(connection, [one.row for one in decided])
    fresh: list[ReceivedInstance] = []
    again: Counter[str] = Counter()
    for one in decided:
        keys = {one.row.sop_instance_uid, one.row.path}
        if one.verdict == "new" and not keys & known:
            fresh.append(one.row)
        else:
            _write_fresh(connection, fresh)
            fresh = []
            again[one.row.study_instance_uid] += _write_file(connection, one)
        known |= keys
    _write_fresh(connection, fresh)
    told = [one.row for one in decided if one.verdict in ("new", "revision", "returned")]
    for row in told:
        if row.rejects:
            rejections.keep_note(connection, row, now())
    corrections.open_rows(connection, [row for row in told if row.sop_class_uid in CORRECTING])
    grown = Counter(one.row.study_instance_uid for one in decided if one.verdict not in ("same", "unreadable"))
    for study, count in grown.items():
        events.record(connection, "instance_indexed", study=study, count=count)
    for study, count in (+again).items():
        events.record(connection, retention.CAME_AGAIN, study=study, count=count)


def _write_fresh(connection: Connection, rows: Sequence[ReceivedInstance]) -> None:
    receiving.add_first_instances(connection, rows)
    _grow(connection, rows)


def _grow(connection: Connection, rows: Sequence[ReceivedInstance], *, corrected: bool = False) -> None:
    """Let the studies of new instances grow: results open none, documents none that is complete."""
    by_study: dict[str, list[ReceivedInstance]] = {}
    for row in rows:
        if row.state != "result":
            by_study.setdefault(row.study_instance_uid, []).append(row)
    for study, mine in by_study.items():
        if studies.is_complete(connection, study):
            mine = list(dropwhile(lambda row: row.state == "document", mine))
            if mine:
                forgetting.came_again(connection, study, mine[0].accession_number)
        if mine:
            studies.grow(connection, mine, corrected=corrected)
            studies.grow_series(connection, [row for row in mine if row.state == "current"])


def _write_file(connection: Connection, one: Decided) -> bool:
    """Write one file; returns whether it takes the place of one that retention removed."""
    row = one.row
    current = receiving.known_instance(connection, row.sop_instance_uid)
    if one.verdict in ("same", "returned") and current:
        if current.state == "forgotten":
            receiving.fill_anew(connection, current.id, row, current.revision)
            _grow(connection, [row])
            return False
        receiving.count_again(connection, current.id)
        studies.come_again(connection, row)
        return bool(current.file_removed) and receiving.keep_file(connection, current.id, row)
    revision = receiving.last_revision(connection, row.sop_instance_uid) + 1
    state = "conflict" if one.verdict == "conflict" else row.state
    put_back = _put_at_its_place(connection, row, state, revision, current)
    if put_back is not None:
        return put_back
    if one.verdict == "revision" and current and current.state != "forgotten":
        receiving.replace_instance(connection, current.id)
    receiving.add_instance(connection, row, revision, state)
    if state == "unreadable":
        events.record(connection, "instance_set_aside", study=row.study_instance_uid, reason=one.reason)
        return False
    if state == "conflict":
        logger().error("conflicting_pixels", revision=revision, study=row.study_instance_uid)
        events.record(connection, "instance_conflicted", study=row.study_instance_uid, revision=revision)
    _grow(connection, [row], corrected=one.verdict != "new")
    return False


def _put_at_its_place(
    connection: Connection, row: ReceivedInstance, state: str, revision: int, current: KnownInstance | None
) -> bool | None:
    """Count a file that has a row already, whatever it meant; an older header that comes again counts from now on.

    Returns whether retention had removed it, None where it has no row.
    """
    known = receiving.row_at(connection, row.path)
    if known is None:
        return None
    identity, known_state = known
    if known_state == "unreadable" and state != "unreadable":
        receiving.drop_row(connection, identity)
        return None
    if known_state == "forgotten":
        receiving.fill_anew(connection, identity, row, revision)
        _grow(connection, [row])
        return False
    receiving.count_again(connection, identity)
    removed = receiving.keep_file(connection, identity, row)
    if known_state == "replaced" and state == "current":
        if current:
            receiving.replace_instance(connection, current.id)
        receiving.make_current(connection, identity, revision)
        _grow(connection, [row], corrected=True)
    return removed


def _drop_copies(spool: Spool, decided: Sequence[Decided]) -> None:
    """Delete second copies of a known content, once its count is written."""
    for one in decided:
        if one.verdict == "same" and one.known and one.known.path != one.row.path and not one.known.file_removed:
            spool.remove(one.row.path)
