"""Federated candidates on trial"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

MOMENT = sa.Float(53)


def upgrade() -> None:
    op.create_table(
        "trial",
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("package", sa.String(length=64), server_default="", nullable=False),
        sa.Column("version", sa.String(length=32), server_default="", nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("scores", sa.JSON(), nullable=False),
        sa.Column("arrived_at", MOMENT, nullable=False),
        sa.Column("state_at", MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("sha256"),
    )


def downgrade() -> None:
    op.drop_table("trial")
