"""`curie tls csr | fingerprint`: a key and a certificate request for the receiver, and whose certificate is whose."""

from __future__ import annotations

import os
import socket
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from appliance.certificates import read_certificate
from appliance.cli.output import ConfigOption, JsonOption, console, print_json
from appliance.errors import Missing, SettingsError
from appliance.settings import find_file, load

app = typer.Typer(no_args_is_help=True, help="Certificates for DICOM over TLS.")
KEY_BITS = 3072


@app.command()
def csr(
    out: Annotated[
        Path | None, typer.Option(help="Folder for key and request; default: tls, beside curie.toml.")
    ] = None,
    name: Annotated[str, typer.Option(help="Host name in the certificate; default: this host's.")] = "",
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Make a private key and a certificate signing request for your hospital's CA."""
    host = name or socket.getfqdn()
    out = out or find_file(config).parent / "tls"
    key_file, request_file = out / "curie.key", out / "curie.csr"
    if key_file.exists():
        raise SettingsError(f"{key_file} is there already; name another folder with --out, it is never overwritten")
    key = rsa.generate_private_key(public_exponent=65537, key_size=KEY_BITS)
    try:
        request = (
            x509.CertificateSigningRequestBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)]))
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
            .add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]),
                critical=False,
            )
            .sign(key, hashes.SHA256())
        )
    except ValueError as error:
        raise SettingsError(f"--name {host!r} is no host name: {error}") from None
    _write(out, key_file, request_file, key, request)
    if json:
        print_json({"key": str(key_file), "request": str(request_file), "host": host})
        return
    console.print(
        f"wrote {key_file} (secret, stays here) and {request_file}: let your CA sign the request, then name "
        "certificate, key and the CA's certificate under [receiver.tls]",
        markup=False,
    )


def _write(
    out: Path, key_file: Path, request_file: Path, key: rsa.RSAPrivateKey, request: x509.CertificateSigningRequest
) -> None:
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    try:
        out.mkdir(parents=True, exist_ok=True, mode=0o750)
        descriptor = os.open(key_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(secret)
        request_file.write_bytes(request.public_bytes(serialization.Encoding.PEM))
    except OSError as error:
        raise Missing(f"{out} is not writable: {error.strerror}; name another folder with --out") from None


@app.command()
def fingerprint(
    files: Annotated[
        list[Path] | None, typer.Argument(help="Certificates, PEM or DER; default: the receiver's.")
    ] = None,
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Show the fingerprints of certificates, as [[sources]] names them."""
    found = [read_certificate(file) for file in files or _ours(config)]
    if json:
        print_json([{**asdict(one), "not_after": one.not_after.isoformat()} for one in found])
        return
    for one in found:
        console.print(f"{one.fingerprint}  {one.subject}  until {one.not_after:%Y-%m-%d}", markup=False)


def _ours(config: Path | None) -> list[Path]:
    tls = load(config).receiver.tls
    if tls is None:
        raise Missing("there is no [receiver.tls] in the settings: name the certificates, or set it up")
    return [tls.certificate, tls.ca]
