"""systemd units, log rotation and the firewall's example: their own programs read them and complain of nothing."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import pytest

from tests.deploy.tools import DEPLOY, processes_known, run, succeeds, tool

UNITS = DEPLOY / "systemd"
SERVICES = ("curie.service", "curie@.service", "curie-backup.service")
MOST_EXPOSED = 1.7  # of 10, by systemd's own reckoning


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A folder of units as install.sh lays them, with a program that there is."""
    folder = tmp_path / "units"
    folder.mkdir()
    for file in (*UNITS.glob("*.service"), *UNITS.glob("*.timer")):
        text = file.read_text().replace("/opt/curie/venv/bin/curie", "/bin/true")
        (folder / file.name).write_text(text)
    for service in SERVICES:
        (folder / f"{service}.d").mkdir()
        shutil.copy(UNITS / "confined.conf", folder / f"{service}.d")
    return folder


def analyze(folder: Path, *words: str) -> str:
    inside = {**os.environ, "SYSTEMD_UNIT_PATH": f"{folder}:", "SYSTEMD_COLORS": "0"}
    return succeeds(tool("systemd-analyze"), *words, env=inside)


def verified(folder: Path) -> str:
    instances = [f"curie@{process}.service" for process in sorted(processes_known())]
    return analyze(folder, "verify", "--man=no", "curie.service", *instances, "curie-backup.timer")


def about_ours(said: str) -> list[str]:
    """Lines on our units; a machine's own may have faults of theirs."""
    return [line for line in said.splitlines() if "curie" in line or "confined" in line]


def test_systemd_takes_the_units(installed: Path) -> None:
    assert about_ours(verified(installed)) == []


def test_systemd_takes_the_units_with_a_gpu(installed: Path) -> None:
    shutil.copy(UNITS / "gpu.conf", installed / "curie.service.d")
    assert about_ours(verified(installed)) == []


def test_systemd_would_complain_of_an_unknown_key(installed: Path) -> None:
    drop_in = installed / "curie.service.d" / "confined.conf"
    drop_in.write_text(drop_in.read_text().replace("NoNewPrivileges", "NoNewPrivilege"))
    assert "NoNewPrivilege" in "\n".join(about_ours(verified(installed)))


@pytest.mark.parametrize("unit", ["curie.service", "curie@worker.service", "curie-backup.service"])
def test_little_is_exposed(installed: Path, unit: str) -> None:
    said = analyze(installed, "security", "--offline=true", "--no-pager", unit)
    (exposed,) = re.findall(rf"Overall exposure level for {re.escape(unit)}: ([\d.]+)", said)
    assert float(exposed) < MOST_EXPOSED


def test_machine_code_may_be_written_and_run() -> None:
    lines = (UNITS / "confined.conf").read_text().splitlines()
    assert not [line for line in lines if line.startswith("MemoryDenyWriteExecute")], "OpenVINO and torch need it"
    assert "OOMPolicy=continue" in lines, "else one engine without memory ends all"


def test_the_backup_is_made_every_night() -> None:
    timer = (UNITS / "curie-backup.timer").read_text()
    (when,) = re.findall("^OnCalendar=(.*)$", timer, re.MULTILINE)
    assert "Next elapse" in succeeds(tool("systemd-analyze"), "calendar", when)
    assert "ExecStart=/opt/curie/venv/bin/curie backup /var/backups/curie --keep 14\n" in (
        (UNITS / "curie-backup.service").read_text()
    )


@pytest.mark.skipif(os.geteuid() != 0, reason="a rotated log changes hands: root only")
def test_logs_are_rotated(tmp_path: Path) -> None:
    log = tmp_path / "curie.log"
    log.write_text("{}\n" * 1000)
    rules = (DEPLOY / "logrotate.conf").read_text()
    assert "/var/log/curie/*.log {" in rules
    assert "su curie curie" in rules
    text = rules.replace("/var/log/curie", str(tmp_path)).replace("su curie curie", "su root root")
    (tmp_path / "conf").write_text(text)
    with open(log, "a") as held:  # as a running process holds it
        succeeds(tool("logrotate"), "--force", "--state", tmp_path / "state", tmp_path / "conf")
        held.write("after\n")
    assert log.read_text() == "after\n"
    assert (tmp_path / "curie.log.1").stat().st_size == 3000


@pytest.mark.skipif(os.geteuid() != 0, reason="nft looks into the kernel: root only")
@pytest.mark.parametrize("off", ["#off ", ""], ids=["as it is", "with all that may be switched on"])
def test_the_firewall_takes_its_rules(tmp_path: Path, off: str) -> None:
    nft = tool("nft")
    rules = (DEPLOY / "nftables.conf").read_text().replace('skuid != "curie"', "skuid != 10001")
    assert rules.count("#off ip") == 8
    rules = rules.replace("#off ip", f"{off}ip")
    (tmp_path / "rules").write_text(rules)
    succeeds(tool("unshare"), "--net", nft, "-c", "-f", tmp_path / "rules")
    (tmp_path / "rules").write_text(rules.replace("dport { 11112", "dport { 1111211"))
    assert run(tool("unshare"), "--net", nft, "-c", "-f", tmp_path / "rules").returncode != 0
