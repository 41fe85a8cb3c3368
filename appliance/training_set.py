"""What is true of the training set wherever it is written or read: where it lies, for how long, and who a patient is.

It must never import anything slow: the sidecar, which is to stay small, reads it too.
"""

from __future__ import annotations

import hashlib
from datetime import datetime, timedelta
from pathlib import Path

from appliance.federation_settings import KEEP_CASES_DAYS
from appliance.settings import Settings


def folder_of(settings: Settings) -> Path:
    """Return where the cases of all packages lie."""
    return settings.data_dir / "training"


def patient_hash(settings: Settings, key: str) -> str:
    """Return the name of a patient in the training set, another one at every appliance. `key`: the catalogue's."""
    return hashlib.sha256(f"{settings.appliance_uid}|{key}".encode()).hexdigest()


def kept_since(settings: Settings, at: datetime) -> datetime:
    """Return the moment since which cases must have been kept to count."""
    days = settings.federation.keep_cases_days if settings.federation else KEEP_CASES_DAYS
    return at - timedelta(days=days)
