"""Which packages this appliance has. It must never choose another package than the one that was asked for.

The shipped ones lie in models/zoo, those of the site under data_dir/packages/<id>/<version>.
"""

from __future__ import annotations

from pathlib import Path

from appliance.errors import Missing, PackageRefused
from models.package import MANIFEST, Package, load_package

ZOO = Path(__file__).parent / "zoo"


def package_folders(data_dir: Path) -> list[Path]:
    """Return the folders that hold packages: shipped ones first, then those of the site."""
    shipped = sorted(path.parent for path in ZOO.glob(f"*/{MANIFEST}"))
    return shipped + sorted(path for path in (data_dir / "packages").glob("*/*") if path.is_dir())


def load_in_place(folder: Path) -> Package:
    """Return the package of a folder; PackageRefused if it is not the one its place says."""
    try:
        package = load_package(folder)
    except PackageRefused as refusal:
        raise PackageRefused(f"{folder}: {refusal}") from refusal
    if ZOO not in folder.parents and (folder.parent.name, folder.name) != (package.id, package.version):
        raise PackageRefused(f"{folder}: holds {package.id}@{package.version}; it was put in a wrong place")
    return package


def installed_packages(data_dir: Path) -> list[Package]:
    """Return every package here, by id and rising version; PackageRefused if one of them is damaged."""
    packages = [load_in_place(folder) for folder in package_folders(data_dir)]
    unique = {(package.id, package.version): package for package in reversed(packages)}
    return sorted(unique.values(), key=lambda package: (package.id, version_order(package.version)))


def version_order(version: str) -> tuple[int, ...]:
    """Return numbers that sort versions: 1.10.0 comes after 1.9.0."""
    return tuple(int(part) for part in version.split("."))


def active_package(name: str, data_dir: Path) -> Package:
    """Return the package `name`: "brain-structures" (its newest version) or "brain-structures@1.2.0".

    Raises Missing if there is none, PackageRefused if a version of it is damaged; other packages do not matter.
    """
    wanted, _, version = name.partition("@")
    folders = [folder for folder in package_folders(data_dir) if wanted in (folder.name, folder.parent.name)]
    packages = [load_in_place(folder) for folder in folders if not version or may_hold(folder, version)]
    fitting = [one for one in packages if one.id == wanted and version in ("", one.version)]
    if not fitting:
        raise Missing(f"no package {name} is installed; `curie models list` shows what is")
    return max(fitting, key=lambda package: version_order(package.version))


def may_hold(folder: Path, version: str) -> bool:
    """Return whether the folder is a shipped one, or the site's place for this version."""
    return ZOO in folder.parents or folder.name == version
