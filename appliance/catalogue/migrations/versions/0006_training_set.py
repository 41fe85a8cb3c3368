"""The training set: corrections that came back, labelled cases, patients who opted out"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

MOMENT = sa.Float(53)


def upgrade() -> None:
    op.create_table(
        "correction",
        sa.Column("sop_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("study_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("path", sa.String(length=255), nullable=False),
        sa.Column("received_at", MOMENT, nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("package", sa.String(length=64), server_default="", nullable=False),
        sa.Column("job_id", sa.String(length=36), server_default="", nullable=False),
        sa.Column("reason", sa.Text(), server_default="", nullable=False),
        sa.Column("tries", sa.Integer(), server_default="0", nullable=False),
        sa.Column("decided_at", MOMENT),
        sa.PrimaryKeyConstraint("sop_instance_uid"),
    )
    op.create_index("correction_waiting", "correction", ["state", "received_at"])
    op.create_index("correction_of_study", "correction", ["study_instance_uid"])
    op.create_table(
        "training_case",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("package", sa.String(length=64), nullable=False),
        sa.Column("study_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("series_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("region", sa.String(length=64), nullable=False),
        sa.Column("patient", sa.String(length=64), nullable=False),
        sa.Column("scanner", sa.String(length=128), nullable=False),
        sa.Column("source", sa.String(length=16), nullable=False),
        sa.Column("label_uid", sa.String(length=64), nullable=False),
        sa.Column("author", sa.String(length=128), nullable=False),
        sa.Column("labelled_at", MOMENT, nullable=False),
        sa.Column("kept_at", MOMENT, nullable=False),
        sa.Column("path", sa.String(length=255), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("held_back", sa.Integer(), nullable=False),
        sa.Column("withdrawn_at", MOMENT),
        sa.Column("reason", sa.Text(), server_default="", nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_training_case_patient", "training_case", ["patient"])
    op.create_index("training_case_of_package", "training_case", ["package", "withdrawn_at"])
    op.create_index("training_case_of_series", "training_case", ["series_instance_uid", "package"])
    op.create_table(
        "opt_out",
        sa.Column("patient", sa.String(length=64), nullable=False),
        sa.Column("at", MOMENT, nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("patient"),
    )


def downgrade() -> None:
    for table in ("opt_out", "training_case", "correction"):
        op.drop_table(table)
