from __future__ import annotations

import json
import stat
import zipfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from appliance.doctor import check_kit
from appliance.errors import CurieError, Missing, SettingsError
from appliance.federation_settings import Coordinator, Federation
from appliance.settings import Settings
from workers.coordinator import kits
from workers.coordinator.authority import Authority, days_left
from workers.coordinator.server_files import folder_of, write_account, write_server
from workers.sidecar import joining
from workers.sidecar.hardening import kit_of

CENTRAL = Coordinator(host="fl.example.org", schedule="")


@pytest.fixture(scope="module")
def central(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data_dir with a server and an invited site."""
    data_dir = tmp_path_factory.mktemp("central")
    write_server(data_dir, CENTRAL)
    kits.invite("st-elsewhere", data_dir, CENTRAL, data_dir)
    return data_dir


def site(folder: Path, coordinator: str = "grpcs://fl.example.org:8002") -> Federation:
    return Federation(coordinator=coordinator, kit=folder / "kit", packages=("tiny",))


def test_a_kit_holds_certificates_and_facts_and_only_its_owner_reads_it(central: Path) -> None:
    path = central / "st-elsewhere-kit.zip"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with zipfile.ZipFile(path) as archive:
        assert sorted(archive.namelist()) == ["client.crt", "client.key", "kit.json", "publisher.pub", "rootCA.pem"]
        told = json.loads(archive.read("kit.json"))
        certificate = x509.load_pem_x509_certificate(archive.read("client.crt"))
        root = x509.load_pem_x509_certificate(archive.read("rootCA.pem"))
    assert (told["site"], told["coordinator"]) == ("st-elsewhere", "grpcs://fl.example.org:8002")
    key = root.public_key()
    assert isinstance(key, rsa.RSAPublicKey)
    assert certificate.signature_hash_algorithm is not None
    key.verify(
        certificate.signature, certificate.tbs_certificate_bytes, padding.PKCS1v15(),
        certificate.signature_hash_algorithm,
    )  # fmt: skip
    life = certificate.not_valid_after_utc - certificate.not_valid_before_utc
    assert life == timedelta(days=397)
    assert kits.invited(central) == ["st-elsewhere"]


@pytest.mark.parametrize("name", ["", "St Elsewhere", "../up", "coordinator", "server", "a" * 64])
def test_a_name_that_is_no_site_is_refused(central: Path, name: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError):
        kits.invite(name, central, CENTRAL, tmp_path)


def test_joining_shows_what_it_allows_and_puts_the_kit_into_its_place(central: Path, tmp_path: Path) -> None:
    kit, own = joining.read_kit(central / "st-elsewhere-kit.zip"), site(tmp_path)
    shown = "\n".join(joining.allowed(kit, own))
    assert "may be trained tiny" in shown
    assert "never leaves   images" in shown
    joining.join(kit, own)
    assert kit_of(own.kit)["site"] == "st-elsewhere"
    assert stat.S_IMODE((own.kit / "client.key").stat().st_mode) == 0o600
    assert 395 <= (joining.days_left(own) or 0) <= 397
    joining.leave(own, tmp_path / "engine")
    with pytest.raises(Missing, match="no kit"):
        kit_of(own.kit)


def test_doctor_warns_before_the_certificate_ends(
    central: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = Settings(federation=site(tmp_path))
    (before,) = check_kit(own)
    assert (before.ok, "cannot be read" in before.text) == (False, True)
    joining.join(joining.read_kit(central / "st-elsewhere-kit.zip"), site(tmp_path))
    assert check_kit(own)[0].ok
    monkeypatch.setattr("workers.coordinator.authority.LEAF_DAYS", 20)
    kits.invite("st-elsewhere", central, CENTRAL, tmp_path)
    joining.join(joining.read_kit(tmp_path / "st-elsewhere-kit.zip"), site(tmp_path))
    (soon,) = check_kit(own)
    assert not soon.ok
    assert "curie federation invite" in soon.remedy


def test_a_kit_of_another_coordinator_is_refused(central: Path, tmp_path: Path) -> None:
    kit = joining.read_kit(central / "st-elsewhere-kit.zip")
    with pytest.raises(SettingsError, match="the kit is of"):
        joining.join(kit, site(tmp_path, "grpcs://other.example.org:8002"))


def test_a_site_that_is_revoked_is_invited_no_more(central: Path, tmp_path: Path) -> None:
    kits.invite("gone", central, CENTRAL, tmp_path)
    assert "gone" in kits.invited(central)
    kits.revoke("gone", central)
    assert "gone" not in kits.invited(central)
    with pytest.raises(Missing, match="was not invited"):
        kits.revoke("gone", central)


def test_no_site_can_pose_as_the_server(central: Path) -> None:
    def purposes(pem: bytes) -> set[str]:
        found = x509.load_pem_x509_certificate(pem).extensions.get_extension_for_class(x509.ExtendedKeyUsage)
        return {one._name for one in found.value}

    server = folder_of(central) / "server" / "startup" / "server.crt"
    assert purposes(server.read_bytes()) == {"clientAuth", "serverAuth"}
    assert purposes(joining.read_kit(central / "st-elsewhere-kit.zip")["client.crt"]) == {"clientAuth"}


def test_what_is_no_kit_is_refused(tmp_path: Path) -> None:
    (tmp_path / "no.zip").write_bytes(b"not a zip")
    with pytest.raises(Missing):
        joining.read_kit(tmp_path / "no.zip")
    with zipfile.ZipFile(tmp_path / "large.zip", "w") as archive:
        for name in joining.FILES:
            archive.writestr(name, b" " * 100_000)
    with pytest.raises(CurieError, match="too large"):
        joining.read_kit(tmp_path / "large.zip")


def test_the_server_answers_under_its_name_and_is_renewed_before_its_end(central: Path) -> None:
    path = folder_of(central) / "server" / "startup" / "server.crt"
    names = x509.load_pem_x509_certificate(path.read_bytes()).extensions.get_extension_for_class(
        x509.SubjectAlternativeName
    )
    assert set(names.value.get_values_for_type(x509.DNSName)) == {"coordinator", "fl.example.org", "localhost"}
    before = path.read_bytes()
    write_server(central, CENTRAL)
    assert path.read_bytes() == before
    old = Authority(folder_of(central) / "authority")
    assert days_left(path) > 390
    assert days_left(path, datetime.now(UTC) + timedelta(days=400)) < 0
    assert old.root == Authority(folder_of(central) / "authority").root


def test_policies_let_nobody_bring_code_or_read_logs(central: Path) -> None:
    write_account(central, CENTRAL)
    local = folder_of(central) / "server" / "local"
    may = json.loads((local / "authorization.json").read_text())["permissions"]
    assert list(may) == ["lead"]
    assert {may["lead"][right] for right in ("byoc", "shell_commands", "operate", "download_job")} == {"none"}
    resources = json.loads((local / "resources.json").read_text())
    assert resources["class_list_enforcement_mode"] == "enforce"
    assert resources["class_allow_list"] == ["workers.coordinator.controller.RoundController"]
    assert "/tmp" not in (local / "resources.json").read_text().replace(str(central), "")
