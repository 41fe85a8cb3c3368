"""A signature is one of a trusted key over these very bytes, or the package is refused."""

from __future__ import annotations

import base64
import stat
from pathlib import Path

import pytest

from appliance.errors import Missing, PackageRefused, SettingsError
from appliance.settings import parse
from models.signing import (
    ZOO_KEY,
    Trust,
    key_id,
    make_key,
    read_private_key,
    read_public_key,
    signed,
    signer,
    site_key,
    trust_of,
)

MANIFEST = b'{"files":[]}'


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, Path]:
    for name in ("ours", "theirs"):
        make_key(tmp_path / f"{name}.key")
    return tmp_path / "ours.key", tmp_path / "theirs.key"


def trusting(*paths: Path, allow_unsigned: bool = False) -> Trust:
    public = [read_public_key(path.with_suffix(".pub")) for path in paths]
    return Trust({key_id(key): key for key in public}, {}, allow_unsigned)


def by(path: Path, manifest: bytes = MANIFEST, before: bytes = b"") -> bytes:
    return signed(manifest, before, read_private_key(path))


def test_a_private_key_is_readable_by_its_owner_alone_and_never_written_over(keys: tuple[Path, Path]) -> None:
    assert stat.S_IMODE(keys[0].stat().st_mode) == 0o600
    with pytest.raises(SettingsError, match="never written over"):
        make_key(keys[0])


def test_a_trusted_signature_names_its_key(keys: tuple[Path, Path]) -> None:
    ours, theirs = keys
    both = by(theirs, before=by(ours))
    assert both.count(b"\n") == 2
    assert signer(MANIFEST, both, trusting(ours)) == key_id(read_public_key(ours.with_suffix(".pub")))
    assert signer(MANIFEST, both, trusting(theirs)) == key_id(read_public_key(theirs.with_suffix(".pub")))


def test_signing_again_replaces_the_own_line(keys: tuple[Path, Path]) -> None:
    ours, theirs = keys
    assert by(ours, before=by(ours)) == by(ours)
    assert by(ours, before=by(theirs)).count(b"\n") == 2


def test_one_wrong_signature_of_a_trusted_key_is_enough_to_refuse(keys: tuple[Path, Path]) -> None:
    ours, theirs = keys
    mixed = by(theirs, before=by(ours, manifest=b"other"))
    with pytest.raises(PackageRefused, match="is not one of this MANIFEST"):
        signer(MANIFEST, mixed, trusting(ours, theirs))


@pytest.mark.parametrize("place", [0, 17, 34, 51, 68, 84, 85, 87])
def test_no_altered_signature_passes(keys: tuple[Path, Path], place: int) -> None:
    line = bytearray(by(keys[0]))
    start = len(b"ed25519 ") + 64 + 1
    line[start + place] = ord("A") if line[start + place] != ord("A") else ord("B")
    with pytest.raises(PackageRefused):
        signer(MANIFEST, bytes(line), trusting(keys[0]))


def test_a_foreign_key_is_named_and_refused(keys: tuple[Path, Path]) -> None:
    ours, theirs = keys
    with pytest.raises(PackageRefused, match="trusted_keys does not name"):
        signer(MANIFEST, by(theirs), trusting(ours))


def test_unsigned_passes_only_where_it_is_allowed(keys: tuple[Path, Path]) -> None:
    with pytest.raises(PackageRefused, match="unsigned"):
        signer(MANIFEST, None, trusting(keys[0]))
    assert signer(MANIFEST, None, trusting(keys[0], allow_unsigned=True)) == ""
    with pytest.raises(PackageRefused, match="trusted_keys"):  # a foreign signature is no lack of one
        signer(MANIFEST, by(keys[1]), trusting(keys[0], allow_unsigned=True))


GOOD = b"ed25519 " + b"a" * 64 + b" " + base64.b64encode(bytes(64)) + b"\n"


@pytest.mark.parametrize(
    "raw", [b"", b"\n", GOOD[:-1], GOOD + b"x", GOOD.replace(b"ed25519", b"rsa"), GOOD * 9, b"\0" * 100, GOOD + b"\n"]
)
def test_anything_but_lines_of_signatures_is_refused(raw: bytes, keys: tuple[Path, Path]) -> None:
    with pytest.raises(PackageRefused, match="not 1 to 8 lines"):
        signer(MANIFEST, raw, trusting(keys[0]))


def test_keys_of_another_kind_or_absent_are_said(tmp_path: Path) -> None:
    (tmp_path / "not.pub").write_text("not a key")
    with pytest.raises(SettingsError, match="no Ed25519 public key"):
        read_public_key(tmp_path / "not.pub")
    with pytest.raises(SettingsError, match="no Ed25519 private key"):
        read_private_key(tmp_path / "not.pub")
    with pytest.raises(Missing, match="curie models key"):
        read_private_key(tmp_path / "absent")


def test_trusted_are_the_software_the_site_and_whom_the_settings_name(keys: tuple[Path, Path], tmp_path: Path) -> None:
    settings = parse('[models]\ntrusted_keys = ["ours.pub"]\n', tmp_path / "curie.toml")
    public = make_key(site_key(settings.data_dir))
    names = trust_of(settings).names
    assert names[key_id(read_public_key(ZOO_KEY))] == "Petite Curie"
    assert names[key_id(read_public_key(public))] == "this site"
    assert names[key_id(read_public_key(keys[0].with_suffix(".pub")))] == "ours"
    assert len(names) == 3
