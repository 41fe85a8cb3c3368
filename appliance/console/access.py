"""Who may do what, tokens, and how often somebody may try a password. Time comes in as `now`; no I/O."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import threading
from datetime import timedelta

from appliance.passwords import ROLES

LASTS = timedelta(hours=12)  # a session, whatever is done in it
IDLE = {"viewer": LASTS, "operator": timedelta(hours=1), "administrator": timedelta(hours=1)}
WINDOW_S = 900.0  # in which refused logins are counted
MOST_OF_ACCOUNT, MOST_OF_ADDRESS = 10, 30  # refused logins within it
MOST_KEYS = 10_000  # accounts and addresses that are remembered


def may(role: str, needed: str) -> bool:
    """Return whether somebody of this role may do what needs another."""
    return role in ROLES and ROLES.index(role) >= ROLES.index(needed)


def new_token() -> str:
    """Return a token that nobody guesses: 256 bits."""
    return secrets.token_urlsafe(32)


def digest_of(token: str) -> str:
    """Return what the catalogue knows a session's token by."""
    return hashlib.sha256(token.encode()).hexdigest()


def form_token(token: str) -> str:
    """Return what each form of a session carries: it follows from the session's token, and says nothing of it."""
    return hmac.new(token.encode(), b"form", hashlib.sha256).hexdigest()


def same(one: str, other: str) -> bool:
    """Compare two tokens in constant time."""
    return hmac.compare_digest(one.encode(), other.encode())


class Throttle:
    """Counts logins by account and address: those under way, and those that were refused."""

    def __init__(self) -> None:
        self._tries: dict[str, list[float]] = {}
        self._told: dict[str, float] = {}
        self._lock = threading.Lock()

    def begin(self, account: str, address: str, now: float) -> float:
        """Count one login; return for how many seconds none is taken any more, 0 where this one is."""
        limits = {f"account {account}": MOST_OF_ACCOUNT, f"address {address}": MOST_OF_ADDRESS}
        with self._lock:
            recent = {key: [at for at in self._tries.pop(key, []) if now - at < WINDOW_S] for key in limits}
            waits = [recent[key][0] + WINDOW_S - now for key, most in limits.items() if len(recent[key]) >= most]
            for key, tries in recent.items():  # they come last, so that the first is the one not heard of for longest
                self._tries[key] = tries if waits else [*tries, now]
            while len(self._tries) > MOST_KEYS:
                del self._tries[next(iter(self._tries))]
            return max(waits, default=0.0)

    def first_told(self, address: str, now: float) -> bool:
        """Return whether a wait of this address is to be put on record: once in a window, however often it tries."""
        with self._lock:
            self._told = {key: at for key, at in self._told.items() if now - at < WINDOW_S}
            if address in self._told or len(self._told) >= MOST_KEYS:
                return False
            self._told[address] = now
            return True

    def succeeded(self, account: str, address: str) -> None:
        """Forget what this account tried, and the last try of this address."""
        with self._lock:
            self._tries.pop(f"account {account}", None)
            tries = self._tries.get(f"address {address}")
            if tries:
                tries.pop()
