"""The packages of this appliance: installed from a folder or a .zip, kept by version, found again by digest.

Files lie in data_dir/packages/<id>/<version> and never change; which version is active stands in the catalogue,
with the digest of each. What ships with the software (models/zoo) is installed like any other package; only where no
version of it was ever here does it become active by itself. A stranger's files reach their place after every check.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

from appliance.catalogue import Catalogue, packages
from appliance.catalogue.connection import now
from appliance.errors import Missing, PackageRefused, SettingsError
from appliance.log import logger
from appliance.package_life import Change, VersionRow, version_order
from appliance.settings import Settings
from models.archive import unpacked
from models.package import MANIFEST, Package, load_package, load_signed
from models.signing import ZOO_KEY, Trust, key_id, read_public_key, trust_of

ZOO = Path(__file__).parent / "zoo"
STAGING = ".staging"
Inspect = Callable[[Package], None]  # raises PackageRefused


class Registry:
    """One process's view of the packages; every answer is of this moment."""

    def __init__(self, settings: Settings, catalogue: Catalogue) -> None:
        self.settings = settings
        self.catalogue = catalogue
        self.folder = settings.data_dir / "packages"

    def place(self, row: VersionRow) -> Path:
        """Return the folder of a version."""
        return self.folder / row.package / row.version

    def versions(self, package: str | None = None) -> list[VersionRow]:
        """Return the versions here, by package and rising version."""
        with self.catalogue.read() as connection:
            return packages.versions(connection, package)

    def row(self, name: str) -> VersionRow:
        """Return the version that "brain-structures" (the active one) or "brain-structures@1.2.0" names, or Missing."""
        package, _, number = name.partition("@")
        with self.catalogue.read() as connection:
            found = packages.version(connection, package, number) if number else packages.active(connection, package)
            known = packages.versions(connection, package)
        if found is not None:
            return found
        if not known:
            raise Missing(f"no package {package} is installed; `curie models list` shows what is")
        here = ", ".join(f"{one.version} ({one.state})" for one in known)
        raise Missing(f"no version of {package} is active" if not number else f"{name} is not installed; here: {here}")

    def package(self, name: str) -> Package:
        """Return the package that `name` names; Missing, or PackageRefused if its files are damaged."""
        return self.load(self.row(name))

    def routed(self, name: str) -> Package:
        """Return the package a route runs: the active version, or the one the route pins if it passed the gate."""
        row = self.row(name)
        if row.state in ("installed", "retired"):
            raise Missing(f"{row.name} is {row.state}; a route runs versions that are candidate, shadow or active")
        return self.load(row)

    def shadows(self, package: str) -> list[Package]:
        """Return the versions of a package that run beside the active one."""
        with self.catalogue.read() as connection:
            return [self.load(row) for row in packages.in_state(connection, package, "shadow")]

    def locator(self, package: Package) -> Package | None:
        """Return the package that finds where this one looks; None without one, or if it is not here.

        It is not missed before a study needs it. Raises PackageRefused if its files are damaged.
        """
        plan = package.manifest.locator
        try:
            return self.package(plan.package) if plan else None
        except Missing:
            return None

    def of_digest(self, digest: str) -> Package:
        """Return the package with exactly this digest, whatever its state; Missing if it is not here."""
        with self.catalogue.read() as connection:
            row = packages.by_digest(connection, digest)
        if row is None:
            raise Missing(f"the package of digest {digest[:16]} is not installed here")
        return self.load(row)

    def load(self, row: VersionRow) -> Package:
        """Return the package of a version, its files checked once a process; PackageRefused if they are damaged."""
        return _loaded(self.place(row), row.digest)

    def verified(self, row: VersionRow) -> Package:
        """Return the package of a version, its signature and files checked anew; PackageRefused says what is wrong."""
        package = load_signed(self.place(row), trust_of(self.settings))
        if package.digest != row.digest:
            raise PackageRefused(f"{row.name}: is not the package that was installed; install it again")
        return package

    # --- installing ---

    def install(self, source: Path, inspect: Inspect, *, allow_rollback: bool = False) -> tuple[VersionRow, bool]:
        """Install the package in a folder or .zip file; returns its row, and whether it is new.

        `inspect` looks into graph and weights once signature and digests are right. What is checked is a copy of our
        own, and that very copy is kept; nothing of a package that is refused stays.
        """
        trust = trust_of(self.settings)
        with unpacked(source, self._staging()) as folder:
            return self._take(folder, load_signed(folder, trust), inspect, allow_rollback=allow_rollback)

    def _take(
        self, folder: Path, package: Package, inspect: Inspect, *, allow_rollback: bool
    ) -> tuple[VersionRow, bool]:
        with self.catalogue.read() as connection:
            held = packages.active(connection, package.id)
        older = held is not None and version_order(package.version) < version_order(held.version)
        if older and not allow_rollback:
            raise PackageRefused(
                f"{package.name} is older than the active version; --allow-rollback installs it nevertheless"
            )
        inspect(package)
        return self._keep(folder, package)

    def _keep(self, folder: Path, package: Package) -> tuple[VersionRow, bool]:
        """Move the checked copy to its place, then record the version: a row never names files that are not there."""
        with self._alone():
            return self._kept(folder, package)

    def _kept(self, folder: Path, package: Package) -> tuple[VersionRow, bool]:
        at = now()
        row = VersionRow(package.id, package.version, package.digest, package.signer, "installed", at, at)
        with self.catalogue.read() as connection:
            known = packages.version(connection, package.id, package.version)
        if known is None or (known.digest == package.digest and not self._intact(known)):
            self._put(folder, self.place(row))
        with self.catalogue.write() as connection:
            new = packages.add(connection, row)
        return (row if new else self.row(package.name)), new

    def _intact(self, row: VersionRow) -> bool:
        """Return whether signature and files of a version are those that were installed; what is damaged is logged."""
        try:
            self.verified(row)
        except (PackageRefused, OSError) as error:
            logger().warning("package_damaged", package=row.name, cause=str(error))
            return False
        return True

    def _put(self, folder: Path, place: Path) -> None:
        """Move `folder`, a checked copy in staging, to `place`; what lies there was cut off or is damaged."""
        seal(folder)
        place.parent.mkdir(parents=True, exist_ok=True, mode=0o750)
        before = self._staging() / uuid.uuid4().hex
        if os.path.lexists(place):
            place.rename(before)
        folder.rename(place)
        sync(place.parent)
        shutil.rmtree(before, ignore_errors=True)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Wait until no other process installs."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o750)
        with open(self.folder / ".lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _staging(self) -> Path:
        place = self.folder / STAGING
        place.mkdir(parents=True, exist_ok=True, mode=0o750)
        return place

    # --- what ships ---

    def adopt_shipped(self) -> None:
        """Install what ships with this software; the first version ever seen of a package becomes active.

        One that cannot be installed is logged and never stands in the way of the others.
        """
        for folder in sorted(path.parent for path in ZOO.glob(f"*/{MANIFEST}")):
            try:
                self._adopt(shipped(folder))
            except (PackageRefused, SettingsError) as error:
                logger().error("shipped_package_not_installed", package=folder.name, cause=str(error))

    def _adopt(self, package: Package) -> None:
        with self.catalogue.read() as connection:
            known = packages.by_digest(connection, package.digest)
        if known is None or not self._loads(known):
            with unpacked(package.folder, self._staging()) as folder:
                known, _ = self._keep(folder, load_signed(folder, zoo_trust()))
        if known.state == "installed":  # just now, or by a process that was killed right after
            self._activate_first(known)

    def _loads(self, row: VersionRow) -> bool:
        try:
            self.load(row)
        except (PackageRefused, OSError):
            return False
        return True

    def _activate_first(self, row: VersionRow) -> None:
        at = now()
        with self.catalogue.write() as connection:
            if packages.changes(connection, row.package) or len(packages.versions(connection, row.package)) > 1:
                return
            why = "ships with the software, and no other version was ever here"
            change = Change(row.package, "shipped", "", row.version, "Petite Curie", why, at, "", at)
            packages.set_state(connection, row, "candidate", at)
            packages.make_active(connection, packages.version(connection, row.package, row.version) or row, change, at)
            packages.record_change(connection, change)


def open_registry(settings: Settings, catalogue: Catalogue) -> Registry:
    """Return the registry with what ships installed."""
    registry = Registry(settings, catalogue)
    registry.adopt_shipped()
    return registry


@lru_cache(maxsize=32)
def _loaded(folder: Path, digest: str) -> Package:
    return load_package(folder, digest)


@lru_cache(maxsize=32)
def shipped(folder: Path) -> Package:
    """Return a package of models/zoo, signed by this software's publisher."""
    return load_signed(folder, zoo_trust())


def zoo_trust() -> Trust:
    """Return the trust in this software's publisher alone."""
    key = read_public_key(ZOO_KEY)
    return Trust({key_id(key): key}, {key_id(key): "Petite Curie"})


def seal(folder: Path) -> None:
    """Make every file below a folder durable and read-only, and every name in it durable."""
    for path in sorted(folder.rglob("*")):
        if path.is_dir():
            sync(path)
            continue
        path.chmod(0o440)
        sync(path)
    sync(folder)


def sync(folder: Path) -> None:
    """Make the names in a folder durable, or the bytes of a file."""
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
