"""A request that a CA can sign, a key that nobody else can read, and fingerprints as other tools show them."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from appliance.certificates import read_certificate
from appliance.doctor import check_tls
from appliance.errors import Missing, SettingsError
from appliance.settings import parse
from dicom_nodes.receiver import tls_context
from tests.appliance.cli.in_process import curie
from tests.certificates import Authority

TLS = '[receiver.tls]\ncertificate = "tls/curie.pem"\nkey = "tls/curie.key"\nca = "tls/ca.pem"\n'


def test_csr_makes_a_key_and_a_request_and_never_overwrites(tmp_path: Path) -> None:
    (tmp_path / "curie.toml").write_text("")
    words = ("tls", "csr", "--name", "curie.example.org", "--config", str(tmp_path / "curie.toml"))
    assert curie(*words).returncode == 0
    key, request = tmp_path / "tls" / "curie.key", tmp_path / "tls" / "curie.csr"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    made = x509.load_pem_x509_csr(request.read_bytes())
    assert made.is_signature_valid
    secret = load_pem_private_key(key.read_bytes(), None)
    assert made.public_key().public_numbers() == secret.public_key().public_numbers()  # type: ignore[union-attr]
    names = made.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["curie.example.org"]
    again = curie(*words)
    assert again.returncode == 2
    assert "there already" in again.stderr


def test_fingerprints_are_those_of_openssl(tmp_path: Path) -> None:
    certificate, key, fingerprint = Authority(tmp_path).issue("ct1")
    assert read_certificate(certificate).fingerprint == fingerprint
    assert curie("tls", "fingerprint", str(certificate)).stdout.startswith(fingerprint)
    with pytest.raises(Missing, match="no certificate"):
        read_certificate(key)


def test_doctor_tells_of_certificates(tmp_path: Path) -> None:
    settings = parse(TLS, tmp_path / "curie.toml")
    (bad,) = check_tls(settings)
    assert not bad.ok
    with pytest.raises(SettingsError, match=r"receiver\.tls"):
        tls_context(settings.receiver.tls)  # type: ignore[arg-type]
    Authority(tmp_path / "tls").issue("curie")
    found = check_tls(settings)
    assert [(one.name, one.text) for one in found] == [
        ("certificate curie.pem", "28 days left"),
        ("certificate ca.pem", "28 days left"),
    ]
    assert not any(one.ok for one in found), "30 days before the end it complains"


def test_fingerprints_in_settings_are_checked_and_written_one_way(tmp_path: Path) -> None:
    text = '[[sources]]\nae_title = "CT1"\nfingerprint = "%s"\n'
    colons = "sha256:" + ":".join(["AB"] * 32)
    (source,) = parse(text % colons, tmp_path / "curie.toml").sources
    assert source.fingerprint == "sha256:" + "ab" * 32
    assert not parse(text % colons, tmp_path / "curie.toml").impossible_fingerprints()
    assert parse(text % "sha256:123", tmp_path / "curie.toml").impossible_fingerprints() == ["CT1"]
    with pytest.raises(SettingsError, match="fingerprint"):
        parse(text % "md5:123", tmp_path / "curie.toml")


def test_a_file_that_is_not_there_is_named_before_anything_starts(tmp_path: Path) -> None:
    file = tmp_path / "curie.toml"
    file.write_text(TLS)
    Authority(tmp_path / "tls").issue("curie")
    (tmp_path / "tls" / "ca.pem").unlink()
    (look,) = check_tls(parse(TLS, file))
    assert f"receiver.tls.ca: {tmp_path}/tls/ca.pem cannot be read" in look.text
    up = curie("up", "--config", str(file))
    assert (up.returncode, "receiver.tls.ca" in up.stderr, len(up.stderr.splitlines())) == (2, True, 1)
    assert not (tmp_path / "curie-data").exists()


def test_a_key_of_another_certificate_is_refused_before_anything_starts(tmp_path: Path) -> None:
    file = tmp_path / "curie.toml"
    file.write_text(TLS)
    Authority(tmp_path / "tls").issue("curie")
    _, other, _ = Authority(tmp_path / "other").issue("other")
    (tmp_path / "tls" / "curie.key").write_bytes(other.read_bytes())
    up = curie("up", "--config", str(file))
    assert (up.returncode, len(up.stderr.splitlines())) == (2, 1)
    assert "receiver.tls: certificate, key or ca cannot be used" in up.stderr
