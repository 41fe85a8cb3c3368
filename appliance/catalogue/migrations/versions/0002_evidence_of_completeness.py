"""Evidence of completeness: counts, announced instances, procedure steps, pauses of sources"""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def new_columns() -> dict[str, list[sa.Column[Any]]]:
    return {
        "instance": [sa.Column("number", sa.Integer(), nullable=True)],
        "series": [sa.Column("expected", sa.Integer(), nullable=True)],
        "study": [
            sa.Column("complete_evidence", sa.Text(), server_default="", nullable=False),
            sa.Column("expected", sa.Integer(), nullable=True),
            sa.Column("expected_least", sa.Integer(), nullable=True),
            sa.Column("found_count", sa.Integer(), nullable=True),
            sa.Column("found_at", sa.Float(53), nullable=True),
            sa.Column("found_ahead", sa.Integer(), server_default="0", nullable=False),
        ],
    }


def upgrade() -> None:
    for table, columns in new_columns().items():
        for column in columns:
            op.add_column(table, column)
    op.drop_index("ix_instance_study_instance_uid", table_name="instance")
    counted = ["study_instance_uid", "state", "series_instance_uid", "sop_instance_uid"]
    op.create_index("instance_of_study", "instance", counted, unique=False)
    op.create_table(
        "procedure_step",
        sa.Column("sop_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("study_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("at", sa.Float(53), nullable=False),
        sa.PrimaryKeyConstraint("sop_instance_uid", "study_instance_uid"),
    )
    op.create_index("procedure_step_of_study", "procedure_step", ["study_instance_uid"], unique=False)
    op.create_table(
        "announced",
        sa.Column("announced_by", sa.String(length=64), nullable=False),
        sa.Column("study_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("sop_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("at", sa.Float(53), nullable=False),
        sa.PrimaryKeyConstraint("announced_by", "study_instance_uid", "sop_instance_uid"),
    )
    op.create_index("announced_of_study", "announced", ["study_instance_uid"], unique=False)
    op.create_table(
        "source_pause",
        sa.Column("ae_title", sa.String(length=16), nullable=False),
        sa.Column("kind", sa.String(length=8), nullable=False),
        sa.Column("pause_s", sa.Float(), nullable=False),
        sa.Column("observed_at", sa.Float(53), nullable=False),
        sa.PrimaryKeyConstraint("ae_title", "kind"),
    )


def downgrade() -> None:
    for name in ("source_pause", "announced", "procedure_step"):
        op.drop_table(name)
    op.drop_index("instance_of_study", table_name="instance")
    op.create_index("ix_instance_study_instance_uid", "instance", ["study_instance_uid"], unique=False)
    for table, columns in new_columns().items():
        for column in columns:
            op.drop_column(table, column.name)
