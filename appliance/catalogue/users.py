"""Who may open the console: accounts, and the sessions that are open. Tables and queries; never a password.

An account holds an argon2id hash, a session the SHA-256 of its token: who reads this database can log in by neither.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Column, Connection, Index, String, Table, delete, func, insert, select, update

from appliance.catalogue.tables import Moment, metadata
from appliance.errors import Missing, SettingsError

account = Table(
    "account",  # of a person who may open the console
    metadata,
    Column("name", String(64), primary_key=True),
    Column("role", String(16), nullable=False),  # viewer | operator | administrator
    Column("password_hash", String(255), nullable=False),  # argon2id
    Column("made_at", Moment, nullable=False),
    Column("changed_at", Moment, nullable=False),  # role or password
)
console_session = Table(
    "console_session",
    metadata,
    Column("token_digest", String(64), primary_key=True),  # SHA-256 of what the browser holds
    Column("name", String(64), nullable=False),
    Column("role", String(16), nullable=False, server_default=""),  # "": as the account says
    Column("opened_at", Moment, nullable=False),
    Column("seen_at", Moment, nullable=False),  # when its person last asked for a page
    Column("ends_at", Moment, nullable=False),
)
Index("console_session_of", console_session.c.name)


@dataclass(frozen=True)
class Account:
    """One person's account, without the hash."""

    name: str
    role: str
    made_at: datetime
    changed_at: datetime


@dataclass(frozen=True)
class OpenSession:
    """Who holds a session, and since when nothing was asked by it."""

    name: str
    role: str
    seen_at: datetime


def accounts(connection: Connection) -> list[Account]:
    """Return all accounts by name."""
    rows = connection.execute(select(*_SHOWN).order_by(account.c.name))
    return [Account(*row) for row in rows]


_SHOWN = [account.c[name] for name in ("name", "role", "made_at", "changed_at")]


def any_account(connection: Connection) -> bool:
    """Return whether there is an account at all."""
    return connection.execute(select(account.c.name).limit(1)).first() is not None


def password_hash(connection: Connection, name: str) -> str | None:
    """Return the hash of an account, None where there is no such account."""
    return connection.execute(select(account.c.password_hash).where(account.c.name == name)).scalar()


def add(connection: Connection, name: str, role: str, hashed: str, now: datetime) -> None:
    """Make an account. Raises SettingsError where the name is taken."""
    if password_hash(connection, name) is not None:
        raise SettingsError(f"there is an account {name} already; `curie users password {name}` changes its password")
    values = {"name": name, "role": role, "password_hash": hashed, "made_at": now, "changed_at": now}
    connection.execute(insert(account).values(**values))


def change(connection: Connection, name: str, now: datetime, **changed: Any) -> None:
    """Change role or hash of an account and end its sessions. Raises Missing."""
    done = connection.execute(update(account).where(account.c.name == name).values(**changed, changed_at=now))
    _require(done.rowcount, name)
    end_sessions(connection, name)


def remove(connection: Connection, name: str) -> None:
    """Remove an account and end its sessions. Raises Missing."""
    _require(connection.execute(delete(account).where(account.c.name == name)).rowcount, name)
    end_sessions(connection, name)


def _require(found: int, name: str) -> None:
    if not found:
        raise Missing(f"there is no account {name}; `curie users list` shows them")


def open_session(connection: Connection, digest: str, name: str, role: str, now: datetime, lasts: timedelta) -> None:
    """Record a session; `role` "" leaves it to the account. Sessions that are over are removed on the way."""
    connection.execute(delete(console_session).where(console_session.c.ends_at < now))
    values = {"token_digest": digest, "name": name, "role": role, "opened_at": now, "seen_at": now}
    connection.execute(insert(console_session).values(**values, ends_at=now + lasts))


def session(connection: Connection, digest: str, now: datetime) -> OpenSession | None:
    """Return whose session this is, with the role of this moment; None where it is over or the account is gone."""
    held = console_session
    row = connection.execute(
        select(held.c.name, func.coalesce(func.nullif(held.c.role, ""), account.c.role), held.c.seen_at)
        .join(account, account.c.name == held.c.name, isouter=True)
        .where(held.c.token_digest == digest, held.c.ends_at > now)
    ).one_or_none()
    return OpenSession(*row) if row is not None and row[1] else None


def seen(connection: Connection, digest: str, now: datetime) -> None:
    """Record that a session's person asked for a page."""
    connection.execute(update(console_session).where(console_session.c.token_digest == digest).values(seen_at=now))


def end_session(connection: Connection, digest: str) -> None:
    """Forget a session."""
    connection.execute(delete(console_session).where(console_session.c.token_digest == digest))


def end_sessions(connection: Connection, name: str) -> None:
    """Forget all sessions of a name."""
    connection.execute(delete(console_session).where(console_session.c.name == name))
