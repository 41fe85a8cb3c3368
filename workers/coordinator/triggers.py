"""How a command asks the coordinator's process for a cycle: an empty file of the package's name."""

from __future__ import annotations

from pathlib import Path


def folder(data_dir: Path) -> Path:
    """Return the folder that is looked into."""
    return data_dir / "coordinator" / "asked"


def ask_for(package: str, data_dir: Path) -> None:
    """Ask for a cycle of a package now."""
    (folder(data_dir) / package).touch()


def asked(data_dir: Path) -> list[str]:
    """Return the packages that are asked for."""
    return sorted(path.name for path in folder(data_dir).iterdir())


def answered(package: str, data_dir: Path) -> None:
    """Take an asking away."""
    (folder(data_dir) / package).unlink(missing_ok=True)
