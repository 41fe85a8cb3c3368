"""Signs a bundle: SHA256SUMS over all of its files, and SHA256SUMS.sig as packages are signed (models/signing.py).

`python -m deploy.sign FOLDER KEY`, with a private key of `curie models key FILE`; install.sh wants the public one.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

from appliance.errors import CurieError, SettingsError
from models.signing import key_id, read_private_key, signed

SUMS, SIGNATURE = "SHA256SUMS", "SHA256SUMS.sig"


def sums(folder: Path) -> bytes:
    """Return a line `DIGEST  NAME` for each file below a folder, as `sha256sum --check` reads it."""
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())
    kept = [name for name in names if name not in (SUMS, SIGNATURE)]
    if strange := [name for name in kept if "\\" in name or "\n" in name or (folder / name).is_symlink()]:
        raise SettingsError(f"{strange[0]!r} has no place in a bundle: a link, or a name of odd characters")
    return b"".join(f"{hashlib.sha256((folder / one).read_bytes()).hexdigest()}  {one}\n".encode() for one in kept)


def sign(folder: Path, key: Path) -> str:
    """Write sums and signature into the folder; return the id of the key."""
    private = read_private_key(key)
    written = sums(folder)
    (folder / SUMS).write_bytes(written)
    (folder / SIGNATURE).write_bytes(signed(written, b"", private))
    return key_id(private.public_key())


if __name__ == "__main__":
    try:
        print(f"bundle signed by key {sign(Path(sys.argv[1]), Path(sys.argv[2]))}")
    except CurieError as error:
        sys.exit(f"bundle: {error}")
