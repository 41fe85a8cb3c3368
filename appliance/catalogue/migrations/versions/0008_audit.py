"""The audit chain over events"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "audit_link",
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("event_seq", sa.Integer(), nullable=False),
        sa.Column("digest", sa.LargeBinary(length=32), nullable=False),
        sa.PrimaryKeyConstraint("number"),
        sa.UniqueConstraint("event_seq"),
    )
    op.create_index("event_of_kind", "event", ["kind", "at"])


def downgrade() -> None:
    op.drop_index("event_of_kind", "event")
    op.drop_table("audit_link")
