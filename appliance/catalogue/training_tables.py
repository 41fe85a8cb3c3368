"""The tables of what may be learned from: corrections that came back, labelled cases, and patients who opted out.

Patients stand here by a hash alone; an author of a label by the name that the label gives.
"""

from __future__ import annotations

from sqlalchemy import Column, Index, Integer, String, Table, Text

from appliance.catalogue.tables import UID, Moment, metadata

correction = Table(
    "correction",  # an object of others that may speak of a result of ours: a SEG or SR that was received
    metadata,
    Column("sop_instance_uid", UID, primary_key=True),
    Column("study_instance_uid", UID, nullable=False),
    Column("path", String(255), nullable=False),  # relative to the spool
    Column("received_at", Moment, nullable=False),
    # waiting → kept: it became cases · noted: a report, no label · not_kept: for the reason · unrelated: to any result
    Column("state", String(16), nullable=False),
    Column("package", String(64), nullable=False, server_default=""),
    Column("job_id", String(36), nullable=False, server_default=""),  # whose results it speaks of
    Column("reason", Text, nullable=False, server_default=""),
    Column("tries", Integer, nullable=False, server_default="0"),
    Column("decided_at", Moment),
)
Index("correction_waiting", correction.c.state, correction.c.received_at)
Index("correction_of_study", correction.c.study_instance_uid)
training_case = Table(
    "training_case",  # a labelled volume, or part of one, that is kept for training or judging
    metadata,
    Column("id", String(36), primary_key=True),
    Column("package", String(64), nullable=False),
    Column("study_instance_uid", UID, nullable=False),
    Column("series_instance_uid", UID, nullable=False),  # of the image; derived from its content where it has none
    Column("region", String(64), nullable=False),  # which part, for a package that looks in regions
    Column("patient", String(64), nullable=False, index=True),  # a hash with this appliance's salt
    Column("scanner", String(128), nullable=False),  # manufacturer and model
    Column("source", String(16), nullable=False),  # correction | import
    Column("label_uid", UID, nullable=False),  # of the object, or derived of the file, that held the labels
    Column("author", String(128), nullable=False),  # as written in it; never for a log
    Column("labelled_at", Moment, nullable=False),
    Column("kept_at", Moment, nullable=False),
    Column("path", String(255), nullable=False),  # relative to the folder of cases
    Column("digest", String(64), nullable=False),  # SHA-256 of the file
    Column("held_back", Integer, nullable=False),  # 1: it judges and is never trained on; fixed for the patient
    Column("withdrawn_at", Moment),
    Column("reason", Text, nullable=False, server_default=""),  # why it was withdrawn
)
Index("training_case_of_package", training_case.c.package, training_case.c.withdrawn_at)
Index("training_case_of_series", training_case.c.series_instance_uid, training_case.c.package)
opt_out = Table(
    "opt_out",  # a patient of whom nothing is to be learned
    metadata,
    Column("patient", String(64), primary_key=True),
    Column("at", Moment, nullable=False),
    Column("reason", Text, nullable=False),
)
