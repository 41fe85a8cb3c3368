"""Facts of X.509 certificates: whose, until when, and the fingerprint that [[sources]] names. It only reads."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from appliance.errors import Missing


@dataclass(frozen=True)
class CertificateFacts:
    """What an administrator needs to know of a certificate."""

    file: str
    fingerprint: str  # sha256: and 64 hexadecimal digits
    subject: str
    not_after: datetime


def read_certificate(file: Path) -> CertificateFacts:
    """Return the facts of a certificate in PEM or DER. Raises Missing."""
    try:
        content = file.read_bytes()
        pem = b"-----BEGIN" in content
        certificate = x509.load_pem_x509_certificate(content) if pem else x509.load_der_x509_certificate(content)
    except OSError as error:
        raise Missing(f"{file} cannot be read: {error.strerror}") from None
    except ValueError:
        raise Missing(f"{file} is no certificate in PEM or DER; a key or a request has no fingerprint") from None
    digest = certificate.fingerprint(hashes.SHA256()).hex()
    subject = certificate.subject.rfc4514_string()
    return CertificateFacts(str(file), f"sha256:{digest}", subject, certificate.not_valid_after_utc)
