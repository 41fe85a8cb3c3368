"""All tables of the catalogue, by noun (those of training: training_tables.py). Without pixel data or patients' names.

Times are kept as seconds since 1970 (UTC) and come out as aware datetimes.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    Dialect,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
)


class Moment(TypeDecorator[datetime]):
    """An aware datetime, kept as a float of seconds since 1970 so that every database orders it alike."""

    impl = Float(53)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> float | None:  # noqa: ARG002
        return None if value is None else value.timestamp()

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        return None if value is None else datetime.fromtimestamp(value, UTC)


metadata = MetaData()
UID = String(64)

association = Table(
    "association",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("ae_title", String(16), nullable=False),
    Column("address", String(64), nullable=False),
    Column("opened_at", Moment, nullable=False),
    Column("lease_until", Moment, nullable=False),
    Column("ended_at", Moment),
    Column("aborted", Integer, nullable=False, server_default="0"),
)
study = Table(
    "study",
    metadata,
    Column("study_instance_uid", UID, primary_key=True),
    Column("accession_number", String(64), nullable=False, server_default="", index=True),
    Column("state", String(16), nullable=False, index=True),  # receiving | complete
    Column("first_received_at", Moment, nullable=False),  # since it was last complete
    Column("last_received_at", Moment, nullable=False),
    Column("complete_at", Moment),
    Column("complete_reason", String(16), nullable=False, server_default=""),
    Column("complete_evidence", Text, nullable=False, server_default=""),  # a sentence: what the reason rests on
    Column("routed", Integer, nullable=False, server_default="0"),
    Column("expected", Integer),  # (0020,1208), the greatest seen
    Column("expected_least", Integer),  # the smallest seen: another one means that the source counts as it goes
    Column("found_count", Integer),  # by C-FIND at a PACS
    Column("found_at", Moment),  # when that was asked
    Column("found_ahead", Integer, nullable=False, server_default="0"),  # 1: it said so when we held fewer
)
study_association = Table(
    "study_association",
    metadata,
    Column("study_instance_uid", UID, ForeignKey("study.study_instance_uid"), primary_key=True),
    Column("association_id", String(36), primary_key=True),
)
series = Table(
    "series",
    metadata,
    Column("study_instance_uid", UID, ForeignKey("study.study_instance_uid"), primary_key=True),
    Column("series_instance_uid", UID, primary_key=True),
    Column("modality", String(16), nullable=False),
    Column("attributes", JSON, nullable=False),  # keyword → value(s) of its first image
    Column("expected", Integer),  # (0020,1209), the greatest seen
)
instance = Table(
    "instance",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("sop_instance_uid", UID, nullable=False),
    Column("revision", Integer, nullable=False),
    Column("study_instance_uid", UID, nullable=False),
    Column("series_instance_uid", UID, nullable=False),
    Column("sop_class_uid", UID, nullable=False),
    Column("transfer_syntax_uid", UID, nullable=False),
    Column("path", String(255), nullable=False, unique=True),  # relative to the spool
    Column("bytes", BigInteger, nullable=False),
    Column("header_digest", String(64), nullable=False),
    Column("pixel_digest", String(64), nullable=False),
    Column("patient_key", String(64), nullable=False),  # digest: tells patients apart, names none
    # current: the newest revision · replaced: an older header · conflict: other pixels under this UID
    # result: made by a curie · document: no images, opens no input set · unreadable: set aside
    # forgotten: its file is gone, and what told of the patient
    Column("state", String(16), nullable=False),
    Column("geometry", JSON, nullable=False),
    Column("number", Integer),  # Instance Number (0020,0013)
    Column("received_at", Moment, nullable=False),
    Column("times_received", Integer, nullable=False, server_default="1"),
    Column("file_removed", Integer, nullable=False, server_default="0"),
    UniqueConstraint("sop_instance_uid", "revision"),
)
Index(  # holds all that counting needs
    "instance_of_study",
    instance.c.study_instance_uid,
    instance.c.state,
    instance.c.series_instance_uid,
    instance.c.sop_instance_uid,
)
Index("instance_kept", instance.c.file_removed, instance.c.received_at)
procedure_step = Table(
    "procedure_step",  # Modality Performed Procedure Step: one row for each study it is part of
    metadata,
    Column("sop_instance_uid", UID, primary_key=True),
    Column("study_instance_uid", UID, primary_key=True),  # "" until an N-CREATE says it
    Column("state", String(16), nullable=False),  # IN PROGRESS, COMPLETED or DISCONTINUED
    Column("at", Moment, nullable=False),
)
Index("procedure_step_of_study", procedure_step.c.study_instance_uid)
announced = Table(
    "announced",  # instances that somebody said there are
    metadata,
    Column("announced_by", UID, primary_key=True),  # SOP Instance UID of the procedure step or notification
    Column("study_instance_uid", UID, primary_key=True),  # "" for a procedure step: its rows say it
    Column("sop_instance_uid", UID, primary_key=True),
    Column("at", Moment, nullable=False),
)
Index("announced_of_study", announced.c.study_instance_uid)
source_pause = Table(
    "source_pause",  # how long a source was seen to pause within one study
    metadata,
    Column("ae_title", String(16), primary_key=True),
    Column("kind", String(8), primary_key=True),  # between two associations, or inside one
    Column("pause_s", Float, nullable=False),
    Column("observed_at", Moment, nullable=False),
)
job = Table(
    "job",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("study_instance_uid", UID, nullable=False, index=True),
    Column("series_instance_uid", UID, nullable=False),
    Column("package", String(64), nullable=False),
    Column("package_version", String(32), nullable=False),
    Column("package_digest", String(64), nullable=False),
    Column("input_set", String(64), nullable=False),
    Column("priority", Integer, nullable=False),  # 0 urgent, 9 routine
    Column("state", String(16), nullable=False),
    Column("reason", Text, nullable=False, server_default=""),
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column("errors", Integer, nullable=False, server_default="0"),
    Column("token", Integer, nullable=False, server_default="0"),  # fencing token
    Column("lease_until", Moment),
    Column("due_at", Moment, nullable=False),
    Column("worker", String(64), nullable=False, server_default=""),
    Column("supersedes", String(36)),  # job whose results this one replaces
    Column("created_at", Moment, nullable=False),
    Column("started_at", Moment),
    Column("finished_at", Moment),
    Column("engine", String(32), nullable=False, server_default=""),
    Column("skipped", JSON, nullable=False, server_default="[]"),  # [[rung, why it was not taken], …]
    Column("timings", JSON, nullable=False),
    Column("findings", JSON, nullable=False),
    Column("inputs", JSON, nullable=False, server_default="[]"),  # [[input, Series Instance UID], …]
    Column("shadow", Integer, nullable=False, server_default="0"),  # 1: its results stay in the appliance
    Column("patient_key", String(64), nullable=False, server_default=""),  # of the images; set with the results
    Column("study_date", String(8), nullable=False, server_default=""),  # YYYYMMDD; set with the results
    Column("tells", Text, nullable=False, server_default=""),  # not "": a report that no result could be made, and why
)
Index("job_of_patient", job.c.patient_key, job.c.package)
Index("job_due", job.c.state, job.c.priority, job.c.created_at)
Index("job_created", job.c.created_at)
job_input = Table(
    "job_input",
    metadata,
    Column("job_id", String(36), ForeignKey("job.id"), primary_key=True),
    Column("sop_instance_uid", UID, primary_key=True),
    Column("instance_id", Integer, ForeignKey("instance.id"), nullable=False, index=True),
)
job_destination = Table(
    "job_destination",
    metadata,
    Column("job_id", String(36), ForeignKey("job.id"), primary_key=True),
    Column("destination", String(64), primary_key=True),
    Column("negative", Integer, nullable=False, server_default="1"),  # 0: it wants no result without a finding
)
outcome = Table(
    "outcome",
    metadata,
    Column("study_instance_uid", UID, ForeignKey("study.study_instance_uid"), primary_key=True),
    Column("route", String(64), primary_key=True),
    Column("package", String(64), nullable=False),
    Column("package_version", String(32), nullable=False),
    Column("outcome", String(16), nullable=False),  # job | not_routed | unsuitable | failed
    Column("reason", Text, nullable=False),
    Column("job_id", String(36)),
    Column("decided_at", Moment, nullable=False),
)
result = Table(
    "result",
    metadata,
    Column("sop_instance_uid", UID, primary_key=True),
    Column("job_id", String(36), ForeignKey("job.id"), nullable=False, index=True),
    Column("role", String(16), nullable=False),  # SEG, SR
    Column("sop_class_uid", UID, nullable=False),
    Column("series_instance_uid", UID, nullable=False),
    Column("path", String(255), nullable=False),  # relative to the results folder
    Column("sha256", String(64), nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("created_at", Moment, nullable=False),
    Column("variant", String(16), nullable=False, server_default=""),  # of objects that stand for each other
)
outbox = Table(
    "outbox",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("sop_instance_uid", UID, ForeignKey("result.sop_instance_uid"), nullable=False),
    Column("job_id", String(36), nullable=False, index=True),
    Column("destination", String(64), nullable=False),
    Column("state", String(16), nullable=False),  # waiting | delivered | committed | rejected | withdrawn
    Column("variant", String(16), nullable=False, server_default=""),  # the result's
    Column("tries", Integer, nullable=False, server_default="0"),
    Column("due_at", Moment, nullable=False),
    Column("answer", Text, nullable=False, server_default=""),
    Column("transaction_uid", String(64), index=True),  # of the storage commitment asked for
    Column("delivered_at", Moment),
    Column("committed_at", Moment),
    Column("losses", Integer, nullable=False, server_default="0"),  # taken, and then not held
    UniqueConstraint("sop_instance_uid", "destination"),
)
Index("outbox_due", outbox.c.state, outbox.c.due_at)
notice = Table(
    "notice",  # what others are told about a job, beside its results; it fails no job
    metadata,
    Column("id", Integer, primary_key=True),
    Column("kind", String(8), nullable=False),  # ian: availability of its results · oru: HL7 observation report
    Column("job_id", String(36), ForeignKey("job.id"), nullable=False),
    Column("recipient", String(64), nullable=False),  # name of the destination or receiver of messages
    Column("state", String(16), nullable=False),  # waiting | sent | refused
    Column("tries", Integer, nullable=False, server_default="0"),
    Column("due_at", Moment, nullable=False),
    Column("answer", Text, nullable=False, server_default=""),
    Column("opened_at", Moment, nullable=False),
    Column("sent_at", Moment),
    UniqueConstraint("kind", "job_id", "recipient"),
)
Index("notice_due", notice.c.state, notice.c.due_at)
Index("notice_of_job", notice.c.job_id)
workitem = Table(
    "workitem",  # of a UPS-RS worklist, since it was first seen there as SCHEDULED
    metadata,
    Column("sop_instance_uid", UID, primary_key=True),
    Column("worklist", String(64), nullable=False),
    Column("transaction_uid", UID, nullable=False),  # the lock: known to us before the claim leaves
    Column("study_instance_uid", UID, nullable=False, index=True),  # "": it names none, or several
    Column("route", String(64), nullable=False),
    Column("urgent", Integer, nullable=False),
    # scheduled (left there, for the reason) → claiming → claimed → closing → closed, or lost
    Column("state", String(16), nullable=False),
    Column("ending", String(16), nullable=False, server_default=""),  # COMPLETED or CANCELED, from closing on
    Column("reason", Text, nullable=False, server_default=""),
    Column("job_id", String(36), nullable=False, server_default=""),
    Column("progress", Integer, nullable=False, server_default="-1"),  # percent, as it was reported last
    Column("found_at", Moment, nullable=False),
    Column("claimed_at", Moment),
    Column("due_at", Moment, nullable=False),
    Column("tries", Integer, nullable=False, server_default="0"),
    Column("answer", Text, nullable=False, server_default=""),
)
Index("workitem_due", workitem.c.state, workitem.c.due_at)
commitment_report = Table(
    "commitment_report",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("transaction_uid", String(64), nullable=False),
    Column("ae_title", String(16), nullable=False),  # who said so
    Column("received_at", Moment, nullable=False),
    Column("stored", JSON, nullable=False),  # [[sop class uid, sop instance uid], …]
    Column("failed", JSON, nullable=False),  # [[sop class uid, sop instance uid, failure reason], …]
    Column("read", Integer, nullable=False, server_default="0"),
)
package_version = Table(
    "package_version",
    metadata,
    Column("package", String(64), primary_key=True),
    Column("version", String(32), primary_key=True),
    Column("digest", String(64), nullable=False, unique=True),  # of MANIFEST.json: pins every byte
    Column("signer", String(64), nullable=False),  # key id, "" where unsigned was allowed
    Column("state", String(16), nullable=False),  # installed | candidate | shadow | active | retired
    Column("installed_at", Moment, nullable=False),
    Column("state_at", Moment, nullable=False),
)
Index(
    "one_active_version",
    package_version.c.package,
    unique=True,
    sqlite_where=package_version.c.state == "active",
    postgresql_where=package_version.c.state == "active",
)
package_change = Table(
    "package_change",  # who made which version active, and why; a second person's word may be awaited
    metadata,
    Column("id", Integer, primary_key=True),
    Column("package", String(64), nullable=False, index=True),
    Column("kind", String(16), nullable=False),  # shipped | promote | rollback | retire
    Column("before", String(32), nullable=False),  # version that was active, "" for none
    Column("after", String(32), nullable=False),
    Column("person", String(64), nullable=False),
    Column("reason", Text, nullable=False),
    Column("asked_at", Moment, nullable=False),
    Column("second_person", String(64), nullable=False, server_default=""),
    Column("done_at", Moment),  # None while a second person is awaited
)
engine_report = Table(
    "engine_report",  # what a host's device runs a package on
    metadata,
    Column("host", String(64), primary_key=True),
    Column("device", String(32), primary_key=True),
    Column("package_digest", String(64), primary_key=True),
    Column("engine", String(32), nullable=False),
    Column("precision", String(8), nullable=False),
    Column("skipped", JSON, nullable=False),  # [[rung, why it was not taken], …]
    Column("parity", JSON, nullable=False),  # figures of the comparison with the golden cases
    Column("memory_mb", Float),  # measured, of the package loaded and run once
    Column("at", Moment, nullable=False),
)
comparison = Table(
    "comparison",  # of two versions of a package on one input set
    metadata,
    Column("job_a", String(36), ForeignKey("job.id"), primary_key=True),  # of the version that was active
    Column("job_b", String(36), ForeignKey("job.id"), primary_key=True),
    Column("package", String(64), nullable=False),
    Column("version_a", String(32), nullable=False),
    Column("version_b", String(32), nullable=False),
    Column("scanner", String(128), nullable=False),  # manufacturer and model
    Column("figures", JSON, nullable=False),
    Column("at", Moment, nullable=False),
)
Index("comparison_of_versions", comparison.c.package, comparison.c.version_a, comparison.c.version_b)
rejection = Table(
    "rejection",  # of instances, by a rejection note (IHE IOCM)
    metadata,
    Column("sop_instance_uid", UID, primary_key=True),
    Column("note_uid", UID, primary_key=True),  # SOP Instance UID of the Key Object Selection
    Column("study_instance_uid", UID, nullable=False, index=True),
    Column("code", String(16), nullable=False),  # 113001, 113037, 113038 or 113039 (DCM)
    Column("at", Moment, nullable=False),
)
event = Table(
    "event",
    metadata,
    Column("seq", Integer, primary_key=True),
    Column("at", Moment, nullable=False),
    Column("kind", String(32), nullable=False),  # past tense, as in the design's straight line
    Column("study_instance_uid", String(64), nullable=False, server_default="", index=True),
    Column("job_id", String(36), nullable=False, server_default="", index=True),
    Column("detail", JSON, nullable=False),
)
Index("event_of_kind", event.c.kind, event.c.at)
process = Table(
    "process",
    metadata,
    Column("host", String(64), primary_key=True),
    Column("name", String(32), primary_key=True),
    Column("pid", Integer, nullable=False),
    Column("beat_at", Moment, nullable=False),
    Column("detail", JSON, nullable=False),
)
