"""A certificate authority for tests, and certificates of it."""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

PEM = serialization.Encoding.PEM


class Authority:
    """One CA; its files lie in `folder`."""

    def __init__(self, folder: Path, name: str = "ca") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.file = folder / f"{name}.pem"
        self.file.write_bytes(self._certificate(self.name, self.key, ca=True).public_bytes(PEM))

    def _certificate(
        self,
        subject: x509.Name,
        key: ec.EllipticCurvePrivateKey,
        ca: bool = False,
        names: Sequence[x509.GeneralName] = (),
    ) -> x509.Certificate:
        start = datetime.now(UTC) - timedelta(days=1)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(start)
            .not_valid_after(start + timedelta(days=30))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        )
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return builder.sign(self.key, hashes.SHA256())

    def issue(self, name: str) -> tuple[Path, Path, str]:
        """Return the files of a certificate and its key, and its fingerprint."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self._certificate(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]), key)
        files = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        files[0].write_bytes(certificate.public_bytes(PEM))
        secret = key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        files[1].write_bytes(secret)
        return *files, f"sha256:{certificate.fingerprint(hashes.SHA256()).hex()}"

    def for_address(self, address: str) -> tuple[Path, Path]:
        """Return the files of a server's certificate for an IP address, and of its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, address)])
        certificate = self._certificate(subject, key, names=[x509.IPAddress(ip_address(address))])
        files = self.folder / "server.pem", self.folder / "server.key"
        files[0].write_bytes(certificate.public_bytes(PEM))
        secret = key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        files[1].write_bytes(secret)
        return files

    def client(self, certificate: tuple[Path, Path, str] | None) -> ssl.SSLContext:
        """Return a context that trusts this CA and shows a certificate, or none."""
        context = ssl.create_default_context(cafile=str(self.file))
        context.check_hostname = False
        if certificate:
            context.load_cert_chain(certificate[0], certificate[1])
        return context
