"""Life of packages: versions and their states, who changed them, engines of each host, comparisons"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("job", sa.Column("skipped", sa.JSON(), server_default="[]", nullable=False))
    op.add_column("job", sa.Column("inputs", sa.JSON(), server_default="[]", nullable=False))
    op.add_column("job", sa.Column("shadow", sa.Integer(), server_default="0", nullable=False))
    op.create_table(
        "package_version",
        sa.Column("package", sa.String(length=64), nullable=False),
        sa.Column("version", sa.String(length=32), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("signer", sa.String(length=64), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("installed_at", sa.Float(53), nullable=False),
        sa.Column("state_at", sa.Float(53), nullable=False),
        sa.PrimaryKeyConstraint("package", "version"),
        sa.UniqueConstraint("digest"),
    )
    active = sa.text("state = 'active'")
    op.create_index(
        "one_active_version", "package_version", ["package"], unique=True, sqlite_where=active, postgresql_where=active
    )
    op.create_table(
        "package_change",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("package", sa.String(length=64), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("before", sa.String(length=32), nullable=False),
        sa.Column("after", sa.String(length=32), nullable=False),
        sa.Column("person", sa.String(length=64), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("asked_at", sa.Float(53), nullable=False),
        sa.Column("second_person", sa.String(length=64), server_default="", nullable=False),
        sa.Column("done_at", sa.Float(53), nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_package_change_package", "package_change", ["package"])
    op.create_table(
        "engine_report",
        sa.Column("host", sa.String(length=64), nullable=False),
        sa.Column("device", sa.String(length=32), nullable=False),
        sa.Column("package_digest", sa.String(length=64), nullable=False),
        sa.Column("engine", sa.String(length=32), nullable=False),
        sa.Column("precision", sa.String(length=8), nullable=False),
        sa.Column("skipped", sa.JSON(), nullable=False),
        sa.Column("parity", sa.JSON(), nullable=False),
        sa.Column("memory_mb", sa.Float(), nullable=True),
        sa.Column("at", sa.Float(53), nullable=False),
        sa.PrimaryKeyConstraint("host", "device", "package_digest"),
    )
    op.create_table(
        "comparison",
        sa.Column("job_a", sa.String(length=36), nullable=False),
        sa.Column("job_b", sa.String(length=36), nullable=False),
        sa.Column("package", sa.String(length=64), nullable=False),
        sa.Column("version_a", sa.String(length=32), nullable=False),
        sa.Column("version_b", sa.String(length=32), nullable=False),
        sa.Column("scanner", sa.String(length=128), nullable=False),
        sa.Column("figures", sa.JSON(), nullable=False),
        sa.Column("at", sa.Float(53), nullable=False),
        sa.ForeignKeyConstraint(["job_a"], ["job.id"]),
        sa.ForeignKeyConstraint(["job_b"], ["job.id"]),
        sa.PrimaryKeyConstraint("job_a", "job_b"),
    )
    op.create_index("comparison_of_versions", "comparison", ["package", "version_a", "version_b"])


def downgrade() -> None:
    for name in ("comparison", "engine_report", "package_change", "package_version"):
        op.drop_table(name)
    for column in ("shadow", "inputs", "skipped"):
        op.drop_column("job", column)
