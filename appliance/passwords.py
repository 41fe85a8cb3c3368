"""Passwords of the console's accounts → argon2id hashes. It must never log, keep or compare a password itself."""

from __future__ import annotations

import re

from argon2 import PasswordHasher
from argon2.exceptions import Argon2Error, InvalidHashError

from appliance.errors import SettingsError

ROLES = ("viewer", "operator", "administrator")  # each may do what those before it may
SHORTEST, LONGEST = 12, 256  # characters of a password
NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_hasher = PasswordHasher()  # argon2id, RFC 9106's second recommendation: 64 MiB, 3 passes
NOBODY = "$argon2id$v=19$m=65536,t=3,p=4$Y3VyaWUtbm9ib2R5LXNhbHQ$kP3MB4v6tEy0zBQGJPbrJKnC2nyhyVQwhjqZ1vHm5ZM"


def hash_of(password: str) -> str:
    """Return the hash to keep. Raises SettingsError for a password that is too short or too long."""
    if not SHORTEST <= len(password) <= LONGEST:
        raise SettingsError(f"a password has {SHORTEST} to {LONGEST} characters; several words are a good one")
    return _hasher.hash(password)


def is_right(hashed: str | None, password: str) -> bool:
    """Tell whether a password belongs to a hash; without an account it takes as long, and is wrong."""
    try:
        _hasher.verify(hashed or NOBODY, password[: LONGEST + 1])
    except (Argon2Error, InvalidHashError):
        return False
    return hashed is not None


def checked_name(name: str) -> str:
    """Return the name of an account. Raises SettingsError."""
    if not NAME.fullmatch(name):
        raise SettingsError(f"{name!r} cannot be an account: small letters, digits, points, hyphens, at most 64")
    return name
