"""Results over time: whose they are, of which day, what stands for each other, what was rejected at the source"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("job", sa.Column("patient_key", sa.String(length=64), server_default="", nullable=False))
    op.add_column("job", sa.Column("study_date", sa.String(length=8), server_default="", nullable=False))
    op.add_column("job", sa.Column("tells", sa.Text(), server_default="", nullable=False))
    op.create_index("job_of_patient", "job", ["patient_key", "package"])
    op.add_column("job_destination", sa.Column("negative", sa.Integer(), server_default="1", nullable=False))
    op.add_column("result", sa.Column("variant", sa.String(length=16), server_default="", nullable=False))
    op.add_column("outbox", sa.Column("variant", sa.String(length=16), server_default="", nullable=False))
    op.create_table(
        "rejection",
        sa.Column("sop_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("note_uid", sa.String(length=64), nullable=False),
        sa.Column("study_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("code", sa.String(length=16), nullable=False),
        sa.Column("at", sa.Float(53), nullable=False),
        sa.PrimaryKeyConstraint("sop_instance_uid", "note_uid"),
    )
    op.create_index("ix_rejection_study_instance_uid", "rejection", ["study_instance_uid"])


def downgrade() -> None:
    op.drop_table("rejection")
    op.drop_index("job_of_patient", "job")
    for table, columns in (
        ("outbox", ("variant",)),
        ("result", ("variant",)),
        ("job_destination", ("negative",)),
        ("job", ("tells", "study_date", "patient_key")),
    ):
        for column in columns:
            op.drop_column(table, column)
