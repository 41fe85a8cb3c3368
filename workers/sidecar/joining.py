"""Joining a consortium and leaving it: a kit is read, shown, and put into its place; nothing of it is ever run."""

from __future__ import annotations

import json
import re
import shutil
import zipfile
from datetime import date
from pathlib import Path

from appliance.certificates import read_certificate
from appliance.errors import CurieError, Missing, SettingsError
from appliance.federation_settings import Federation
from workers.engine_policy import write_private

FILES = ("kit.json", "rootCA.pem", "client.crt", "client.key", "publisher.pub")
LARGEST = 64 * 1024  # bytes of one file
FORMAT = "curie-kit-1"


def read_kit(path: Path) -> dict[str, bytes]:
    """Return the files of a kit, a .zip or a folder. Raises Missing, or CurieError where it is no kit."""
    try:
        found = _from_folder(path) if path.is_dir() else _from_zip(path)
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise Missing(f"no kit can be read at {path}: {error}") from None
    told = about(found)
    if told.get("format") != FORMAT or not re.fullmatch(r"[a-z0-9-]{1,63}", str(told.get("site"))):
        raise CurieError(f"{path} is no kit of this version")
    return found


def _from_folder(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes()[:LARGEST] for name in FILES}


def _from_zip(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        if any(archive.getinfo(name).file_size > LARGEST for name in FILES):
            raise CurieError(f"{path} is no kit: a file of it is too large")
        return {name: archive.read(name) for name in FILES}


def about(kit: dict[str, bytes]) -> dict[str, str]:
    """Return what a kit says of itself. Raises CurieError."""
    try:
        told: dict[str, str] = json.loads(kit["kit.json"])
    except ValueError:
        raise CurieError("kit.json of the kit cannot be read") from None
    return told


def allowed(kit: dict[str, bytes], settings: Federation) -> list[str]:
    """Return, line by line, what joining allows."""
    told = about(kit)
    day = "at any hour" if len(set(settings.hours.split("-"))) == 1 else f"from {settings.hours.replace('-', ' to ')}"
    private = f"patient-level, ε at most {settings.epsilon_budget:g}" if settings.privacy == "dp" else "norm clipped"
    return [
        f"site           {told['site']}, certificate until {told['ends']}",
        f"coordinator    {settings.coordinator}; called from here, nothing listens for it",
        f"its root       {told['root_fingerprint']}",
        f"its packages   signed by {told['publisher_fingerprint']}",
        f"may be trained {', '.join(settings.packages) or 'nothing yet: [federation] packages is empty'}",
        f"when           {day}, with {settings.min_new_cases} new cases or more, never beside clinical work",
        f"where          {settings.device}; it gives way to clinical work within a second",
        f"leaves         changes of weights ({settings.wire}), number of cases, loss and Dice: {private}",
        "never leaves   images, labels, names, logs; no code is taken in, no command, no setting",
    ]


def join(kit: dict[str, bytes], settings: Federation) -> None:
    """Put the kit into its place; an older one is replaced. Raises SettingsError where it is another coordinator's."""
    told = about(kit)
    if told["coordinator"] != settings.coordinator:
        raise SettingsError(f"federation.coordinator is {settings.coordinator}, the kit is of {told['coordinator']}")
    settings.kit.mkdir(parents=True, exist_ok=True, mode=0o700)
    for name in reversed(FILES):  # kit.json last: with it the kit is there
        write_private(settings.kit / name, kit[name])


def leave(settings: Federation, engine: Path) -> None:
    """Remove the kit and the engine's folder; the ledger stays."""
    for name in FILES:
        (settings.kit / name).unlink(missing_ok=True)
    shutil.rmtree(engine, ignore_errors=True)


def days_left(settings: Federation) -> float | None:
    """Return the days until the site's certificate ends, None where there is no kit."""
    path = settings.kit / "client.crt"
    return (read_certificate(path).not_after.date() - date.today()).days if path.exists() else None
