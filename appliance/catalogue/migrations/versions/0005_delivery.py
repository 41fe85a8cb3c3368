"""Delivery: what a destination lost, notices to others, workitems of a worklist"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

MOMENT = sa.Float(53)


def upgrade() -> None:
    op.add_column("outbox", sa.Column("losses", sa.Integer(), server_default="0", nullable=False))
    op.create_table(
        "notice",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(length=8), nullable=False),
        sa.Column("job_id", sa.String(length=36), nullable=False),
        sa.Column("recipient", sa.String(length=64), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("tries", sa.Integer(), server_default="0", nullable=False),
        sa.Column("due_at", MOMENT, nullable=False),
        sa.Column("answer", sa.Text(), server_default="", nullable=False),
        sa.Column("opened_at", MOMENT, nullable=False),
        sa.Column("sent_at", MOMENT),
        sa.ForeignKeyConstraint(["job_id"], ["job.id"]),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("kind", "job_id", "recipient"),
    )
    op.create_index("notice_due", "notice", ["state", "due_at"])
    op.create_index("notice_of_job", "notice", ["job_id"])
    op.create_table(
        "workitem",
        sa.Column("sop_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("worklist", sa.String(length=64), nullable=False),
        sa.Column("transaction_uid", sa.String(length=64), nullable=False),
        sa.Column("study_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("route", sa.String(length=64), nullable=False),
        sa.Column("urgent", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("ending", sa.String(length=16), server_default="", nullable=False),
        sa.Column("reason", sa.Text(), server_default="", nullable=False),
        sa.Column("job_id", sa.String(length=36), server_default="", nullable=False),
        sa.Column("progress", sa.Integer(), server_default="-1", nullable=False),
        sa.Column("found_at", MOMENT, nullable=False),
        sa.Column("claimed_at", MOMENT),
        sa.Column("due_at", MOMENT, nullable=False),
        sa.Column("tries", sa.Integer(), server_default="0", nullable=False),
        sa.Column("answer", sa.Text(), server_default="", nullable=False),
        sa.PrimaryKeyConstraint("sop_instance_uid"),
    )
    op.create_index("ix_workitem_study_instance_uid", "workitem", ["study_instance_uid"])
    op.create_index("workitem_due", "workitem", ["state", "due_at"])


def downgrade() -> None:
    op.drop_table("workitem")
    op.drop_table("notice")
    op.drop_column("outbox", "losses")
