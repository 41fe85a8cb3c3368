"""The consortium's own certificate authority: an RSA root that lives ten years, certificates that live one.

RSA, because the engine signs its jobs with these keys. Private keys are written 0600 and never written over.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from appliance.errors import Missing
from workers.engine_policy import PROJECT, write_private

ROOT_DAYS = 3650
LEAF_DAYS = 397
RENEW_DAYS = 60  # before its end a certificate of our own is made anew
BITS = 3072


@dataclass(frozen=True)
class Credential:
    """A private key and its certificate, both PEM."""

    key: bytes
    certificate: bytes


class Authority:
    """The root's key and certificate in a folder; made at first use."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        if not (folder / "rootCA.key").exists():
            self._make()

    @property
    def root(self) -> bytes:
        """The root's certificate in PEM."""
        return (self.folder / "rootCA.pem").read_bytes()

    def _make(self) -> None:
        key = rsa.generate_private_key(public_exponent=65537, key_size=BITS)
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, PROJECT)])
        certificate = (
            _begun(name, name, key.public_key(), ROOT_DAYS)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(sign_certificates=True), critical=True)
            .sign(key, hashes.SHA256())
        )
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_private(self.folder / "rootCA.key", _pem(key))
        (self.folder / "rootCA.pem").write_bytes(certificate.public_bytes(Encoding.PEM))

    def issue(self, name: str, organisation: str, hosts: tuple[str, ...] = (), role: str = "") -> Credential:
        """Return a new key and certificate; `hosts` are the names and addresses it may answer under."""
        signing = load_pem_private_key((self.folder / "rootCA.key").read_bytes(), None)
        assert isinstance(signing, rsa.RSAPrivateKey)
        root = x509.load_pem_x509_certificate(self.root)
        key = rsa.generate_private_key(public_exponent=65537, key_size=BITS)
        certificate = (
            _begun(_subject(name, organisation, role), root.subject, key.public_key(), LEAF_DAYS)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(sign_certificates=False), critical=True)
            .add_extension(x509.SubjectAlternativeName([_host(one) for one in (name, *hosts)]), critical=False)
            .add_extension(x509.ExtendedKeyUsage(_purposes(hosts)), critical=False)
            .sign(signing, hashes.SHA256())
        )
        return Credential(_pem(key), certificate.public_bytes(Encoding.PEM))


def days_left(certificate: Path, now: datetime | None = None) -> float:
    """Return the days until a certificate ends. Raises Missing."""
    try:
        found = x509.load_pem_x509_certificate(certificate.read_bytes())
    except (OSError, ValueError):
        raise Missing(f"no certificate can be read at {certificate}") from None
    return (found.not_valid_after_utc - (now or datetime.now(UTC))).total_seconds() / 86400


def _begun(subject: x509.Name, issuer: x509.Name, key: rsa.RSAPublicKey, days: int) -> x509.CertificateBuilder:
    begins = datetime.now(UTC) - timedelta(hours=1)  # clocks differ
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins)
        .not_valid_after(begins + timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _subject(name: str, organisation: str, role: str) -> x509.Name:
    parts = [
        x509.NameAttribute(NameOID.COMMON_NAME, name),
        x509.NameAttribute(NameOID.ORGANIZATION_NAME, organisation),
    ]
    if role:  # where the engine looks for it
        parts.append(x509.NameAttribute(NameOID.UNSTRUCTURED_NAME, role))
    return x509.Name(parts)


def _host(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _purposes(hosts: tuple[str, ...]) -> list[x509.ObjectIdentifier]:
    """Return what a certificate is good for: only one with hosts may answer, so that no site can pose as the server."""
    return [ExtendedKeyUsageOID.CLIENT_AUTH, *([ExtendedKeyUsageOID.SERVER_AUTH] if hosts else [])]


def _usage(*, sign_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True, content_commitment=False, key_encipherment=not sign_certificates,
        data_encipherment=False, key_agreement=False, key_cert_sign=sign_certificates, crl_sign=sign_certificates,
        encipher_only=False, decipher_only=False,
    )  # fmt: skip


def _pem(key: rsa.RSAPrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
