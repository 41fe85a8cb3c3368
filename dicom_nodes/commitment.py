"""Storage commitment reports (PS3.4 Annex J): read, kept and judged. Nothing is believed that was not asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pydicom import Dataset
from sqlalchemy import Connection

from appliance.catalogue import Catalogue, outbox
from appliance.catalogue.connection import now
from appliance.log import logger
from dicom_nodes.contexts import is_uid
from dicom_nodes.sender import Reference
from dicom_nodes.values import items, text, whole

NO_SUCH_OBJECT = 0x0112  # PS3.3 C.14.1.1
INVALID_ARGUMENT = 0x0115  # PS3.7 Annex C.4.2
ALL_STORED, SOME_FAILED = 1, 2  # event type IDs, PS3.4 Annex J.3.3.1
TRANSACTION_UID, FAILURE_REASON = 0x00081195, 0x00081197
REFERENCED, FAILED = 0x00081199, 0x00081198  # sequences
REFERENCED_CLASS, REFERENCED_INSTANCE = 0x00081150, 0x00081155


@dataclass(frozen=True)
class Report:
    """What one N-EVENT-REPORT says, and who said it."""

    transaction_uid: str
    ae_title: str
    stored: tuple[tuple[str, str], ...]  # SOP class, SOP instance
    failed: tuple[tuple[str, str, int], ...]  # and Failure Reason


@dataclass(frozen=True)
class Verdict:
    """What a report says of the objects that were asked about."""

    committed: tuple[Reference, ...] = ()
    send_again: tuple[Reference, ...] = ()  # the destination does not hold them
    ask_again: tuple[tuple[Reference, int], ...] = ()  # it holds them and does not vouch, with the failure reason
    distrust: str = ""  # why the report as a whole is not believed


def judge(
    asked: Sequence[Reference],
    asked_of: str,
    said_by: str,
    stored: Sequence[Sequence[str]],
    failed: Sequence[Sequence[object]],
) -> Verdict:
    """Compare a report with the request. A report that adds, omits or swaps objects is not believed."""
    if said_by != asked_of:
        return Verdict(distrust=f"the report came from {said_by}, the request went to {asked_of}")
    good = [Reference(str(item[0]), str(item[1])) for item in stored]
    bad = {Reference(str(item[0]), str(item[1])): int(str(item[2])) for item in failed}
    named = [*good, *bad]
    if len(set(named)) != len(stored) + len(failed) or set(named) != set(asked):
        return Verdict(distrust="the report names other objects than the request")
    return Verdict(
        committed=tuple(good),
        send_again=tuple(one for one, reason in bad.items() if reason == NO_SUCH_OBJECT),
        ask_again=tuple((one, reason) for one, reason in bad.items() if reason != NO_SUCH_OBJECT),
    )


def read_report(ds: Dataset, ae_title: str, event_type: int | None) -> Report:
    """Return what a report's dataset says (PS3.4 Annex J.3.3). Raises ValueError for one that is none."""
    transaction = text(ds, TRANSACTION_UID)
    if not is_uid(transaction):
        raise ValueError("the storage commitment report has no Transaction UID")
    failed = tuple((*_named(item), whole(item, FAILURE_REASON, 0)) for item in items(ds, FAILED))
    if event_type not in (ALL_STORED, SOME_FAILED) or bool(failed) != (event_type == SOME_FAILED):
        raise ValueError(f"the storage commitment report has event type {event_type} and {len(failed)} failures")
    return Report(transaction, ae_title, tuple(_named(item) for item in items(ds, REFERENCED)), failed)


def _named(item: Dataset) -> tuple[str, str]:
    return text(item, REFERENCED_CLASS), text(item, REFERENCED_INSTANCE)


def write_report(connection: Connection, report: Report, at: datetime) -> None:
    """Keep a report until delivery judges it; the same one again changes nothing."""
    outbox.add_report(connection, report.transaction_uid, report.ae_title, report.stored, report.failed, at)


def keep_report(catalogue: Catalogue, event: Any, ae_title: str) -> bool:
    """Keep an N-EVENT-REPORT that came on an association of ours, before it is acknowledged; False: it is none."""
    try:
        report = read_report(event.event_information, ae_title, event.event_type)
    except ValueError as error:
        logger().error("commitment_report_refused", reason=str(error))
        return False
    with catalogue.write() as connection:
        write_report(connection, report, now())
    return True
