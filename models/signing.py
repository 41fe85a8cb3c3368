"""Ed25519 signatures over MANIFEST.json: who vouches for a package, checked before anything of it is parsed.

MANIFEST.sig is lines of `ed25519 KEY SIGNATURE`: the key's id is the SHA-256 of its 32 bytes in hexadecimal, the
signature is base64. A package may carry several (publisher and site); one of a trusted key must be there, and no
signature of a trusted key may be wrong. Keys are PEM files; a private one is never readable by others.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from appliance.errors import Missing, PackageRefused, SettingsError
from appliance.settings import Settings

ZOO_KEY = Path(__file__).parent / "zoo" / "publisher.pub"
LINE = re.compile(rb"ed25519 ([0-9a-f]{64}) ([A-Za-z0-9+/]{86}==)")
MAX_SIGNATURES = 8
MAX_BYTES = 2048
UNSIGNED = ""  # what stands where a key id would


@dataclass(frozen=True)
class Trust:
    """The keys whose word is taken: key id → public key. `names` says whose they are."""

    keys: Mapping[str, Ed25519PublicKey]
    names: Mapping[str, str] = field(default_factory=dict)
    allow_unsigned: bool = False


def key_id(key: Ed25519PublicKey) -> str:
    """Return the SHA-256 of the key's 32 bytes, in hexadecimal."""
    return hashlib.sha256(key.public_bytes(Encoding.Raw, PublicFormat.Raw)).hexdigest()


def site_key(data_dir: Path) -> Path:
    """Return where this site's private key is; the public one lies beside it with the ending .pub."""
    return data_dir / "keys" / "site.key"


def trust_of(settings: Settings) -> Trust:
    """Return the keys this appliance trusts: its software's publisher, its own, and those of the settings."""
    named = {ZOO_KEY: "Petite Curie"}
    own = site_key(settings.data_dir).with_suffix(".pub")
    if own.exists():
        named[own] = "this site"
    named |= {path: path.stem for path in settings.models.trusted_keys}
    try:
        keys = {path: read_public_key(path) for path in named}
    except (Missing, SettingsError) as error:
        key = next((path for path in settings.models.trusted_keys if str(path) in str(error)), None)
        raise type(error)(f"models.trusted_keys: {error}" if key else str(error)) from None
    return Trust(
        {key_id(key): key for key in keys.values()},
        {key_id(key): named[path] for path, key in keys.items()},
        settings.models.allow_unsigned,
    )


def read_public_key(path: Path) -> Ed25519PublicKey:
    """Return the Ed25519 public key of a PEM file; Missing or SettingsError names the file."""
    key: object = None
    try:
        key = load_pem_public_key(path.read_bytes())
    except OSError as error:
        raise Missing(f"no public key can be read at {path} ({error.strerror})") from None
    except (ValueError, UnsupportedAlgorithm):
        pass  # said below
    if not isinstance(key, Ed25519PublicKey):
        raise SettingsError(f"{path} holds no Ed25519 public key in PEM")
    return key


def read_private_key(path: Path) -> Ed25519PrivateKey:
    """Return the Ed25519 private key of a PEM file; Missing or SettingsError names the file."""
    key: object = None
    try:
        key = load_pem_private_key(path.read_bytes(), None)
    except OSError as error:
        raise Missing(f"no key can be read at {path} ({error.strerror}); `curie models key FILE` makes one") from None
    except (ValueError, TypeError, UnsupportedAlgorithm):
        pass  # said below
    if not isinstance(key, Ed25519PrivateKey):
        raise SettingsError(f"{path} holds no Ed25519 private key in PEM without password")
    return key


def make_key(path: Path) -> Path:
    """Write a new private key to `path` (0600) and its public key beside it; return the public key's path."""
    if path.exists():
        raise SettingsError(f"{path} is there already; a key is never written over")
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o750)
    key = Ed25519PrivateKey.generate()
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public = path.with_suffix(".pub")
    public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return public


def signed(manifest: bytes, signatures: bytes, key: Ed25519PrivateKey) -> bytes:
    """Return `signatures` (MANIFEST.sig, or nothing) with one of `key` over `manifest`, each key once."""
    own = key_id(key.public_key())
    kept = [line for line in signatures.splitlines() if own.encode() not in line.split()[1:2]]
    line = f"ed25519 {own} {base64.b64encode(key.sign(manifest)).decode()}".encode()
    return b"".join(one + b"\n" for one in (*kept, line))


def signer(manifest: bytes, signatures: bytes | None, trust: Trust) -> str:
    """Return the id of a trusted key that signed `manifest`, UNSIGNED where that is allowed; else PackageRefused.

    `signatures`: the bytes of MANIFEST.sig, None where there is none.
    """
    if signatures is None:
        if trust.allow_unsigned:
            return UNSIGNED
        raise PackageRefused("MANIFEST.sig: not there; the package is unsigned and models.allow_unsigned is false")
    found = parse(signatures)
    known = [(name, raw) for name, raw in found if name in trust.keys]
    for name, raw in known:
        try:
            trust.keys[name].verify(raw, manifest)
        except InvalidSignature:
            raise PackageRefused(
                f"MANIFEST.sig: the signature of key {name[:16]} is not one of this MANIFEST.json"
            ) from None
    if not known:
        foreign = ", ".join(name[:16] for name, _ in found)
        raise PackageRefused(f"MANIFEST.sig: signed by key {foreign}, which models.trusted_keys does not name")
    return known[0][0]


def parse(signatures: bytes) -> Sequence[tuple[str, bytes]]:
    """Return (key id, signature of 64 bytes) of each line; PackageRefused for anything else."""
    lines = signatures.split(b"\n")
    if len(signatures) > MAX_BYTES or len(lines) - 1 > MAX_SIGNATURES or len(lines) < 2 or lines.pop() != b"":
        raise PackageRefused(f"MANIFEST.sig: not 1 to {MAX_SIGNATURES} lines of `ed25519 KEY SIGNATURE`")
    found = [_signature(line) for line in lines]
    if None in found:
        raise PackageRefused(f"MANIFEST.sig: not 1 to {MAX_SIGNATURES} lines of `ed25519 KEY SIGNATURE`")
    return [one for one in found if one]


def _signature(line: bytes) -> tuple[str, bytes] | None:
    """Return (key id, signature) of a line, None for another one or base64 that is not written in its one way."""
    match = LINE.fullmatch(line)
    if not match:
        return None
    raw = base64.b64decode(match[2])
    return (match[1].decode(), raw) if base64.b64encode(raw) == match[2] else None
