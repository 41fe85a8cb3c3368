"""Kits: what a hospital gets to join, one .zip that is nothing but certificates, an address and fingerprints.

No policy and no program comes with it: what a site allows, its own software writes. The .zip holds the site's private
key and goes to it by a way on which nobody else reads.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import zipfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

from appliance.certificates import read_certificate
from appliance.errors import Missing, SettingsError
from appliance.federation_settings import Coordinator
from models.signing import make_key, site_key
from workers.coordinator.authority import LEAF_DAYS, Authority
from workers.coordinator.server_files import SERVER, folder_of
from workers.engine_policy import ORGANISATION, PROJECT, write_private

SITE = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
FORMAT = "curie-kit-1"


def invited(data_dir: Path) -> list[str]:
    """Return the names of the sites that have a kit."""
    return sorted(path.stem for path in (folder_of(data_dir) / "sites").glob("*.json"))


def invite(site: str, data_dir: Path, settings: Coordinator, out: Path) -> Path:
    """Make a kit for a site and return its .zip; an invited site gets new certificates. Raises SettingsError."""
    if not SITE.fullmatch(site) or site in (SERVER, "server", "localhost"):
        raise SettingsError(f"{site!r} is no name for a site: small letters, digits and hyphens, such as st-elsewhere")
    root = folder_of(data_dir)
    authority = Authority(root / "authority")
    made = authority.issue(site, ORGANISATION)
    publisher = site_key(data_dir).with_suffix(".pub")
    if not publisher.exists():
        make_key(site_key(data_dir))
    about = {
        "format": FORMAT,
        "site": site,
        "coordinator": f"grpcs://{settings.host}:{settings.port}",
        "server": SERVER,
        "project": PROJECT,
        "ends": (datetime.now(UTC) + timedelta(days=LEAF_DAYS)).date().isoformat(),
        "root_fingerprint": read_certificate(root / "authority" / "rootCA.pem").fingerprint,
        "publisher_fingerprint": f"sha256:{hashlib.sha256(publisher.read_bytes()).hexdigest()}",
    }
    files = {
        "kit.json": json.dumps(about, indent=2).encode(),
        "rootCA.pem": authority.root,
        "client.crt": made.certificate,
        "client.key": made.key,
        "publisher.pub": publisher.read_bytes(),
    }
    (root / "sites").mkdir(parents=True, exist_ok=True, mode=0o700)
    write_private(root / "sites" / f"{site}.json", json.dumps({"site": site, "ends": about["ends"]}).encode())
    out.mkdir(parents=True, exist_ok=True)
    write_private(out / f"{site}-kit.zip", _zipped(files))
    return out / f"{site}-kit.zip"


def revoke(site: str, data_dir: Path) -> None:
    """Ask a site no more, and send it nothing: its certificate is good for a connection alone. Raises Missing."""
    if site not in invited(data_dir):
        raise Missing(f"{site} was not invited; there are: {', '.join(invited(data_dir)) or 'none'}")
    (folder_of(data_dir) / "sites" / f"{site}.json").unlink()


def _zipped(files: dict[str, bytes]) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, one in files.items():
            archive.writestr(name, one)
    return content.getvalue()
