"""install.sh and the units under a real systemd: this machine's files, copied on write, booted by systemd-nspawn
without a network. What the units may not do is found out by doing it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deploy.tools import DEPLOY, ROOT, run, succeeds, tool

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(os.geteuid() != 0, reason="mounts and boots: root only"),
]
SYSTEMS_OWN = "/usr/bin/python3"  # units do not see homes, where others may lie
UNITS = {
    "trial.target": "[Unit]\nRequires=basic.target trial.service\nAfter=basic.target\nAllowIsolate=yes\n",
    "trial.service": """[Unit]
After=basic.target
SuccessAction=exit
FailureAction=exit
[Service]
Type=oneshot
ExecStart=/bin/bash -u /trial/trial.sh
StandardOutput=file:/trial/log
StandardError=inherit
TimeoutStartSec=900
""",
}
TRIAL = r"""
export PIP_CONFIG_FILE=/dev/null PIP_FIND_LINKS= PIP_INDEX_URL=http://127.0.0.1:1/
tell() { echo "told $1: $2"; }
sh /trial/bundle/install.sh --offline --unsigned --python PYTHON; tell install $?
sed -i 's/^unknown_sources = "refuse"/unknown_sources = "accept"/' /etc/curie/curie.toml
cat >> /etc/curie/curie.toml <<'TOML'
[[destinations]]
name = "pacs"
ae_title = "PACS"
host = "127.0.0.1"
port = 11104
[[routes]]
name = "brain-mr"
package = "brain-structures"
destinations = ["pacs"]
match = { Modality = "MR" }
TOML
systemctl enable -q --now curie; tell start $?
for _ in $(seq 60); do curie status >/dev/null 2>&1 && break; sleep 1; done
curie status; tell ready $?
CURIE_CONFIG=/etc/curie/curie.toml /opt/curie/venv/bin/python /trial/study.py /tmp/pacs 11104; tell study $?
pid=$(systemctl show -p MainPID --value curie)
tell user "$(ps -o user= -p "$pid")"
tell rights "$(grep -hE '^(CapEff|CapBnd|NoNewPrivs|Seccomp):' /proc/$pid/status | tr -s '\t\n' ' ')"
nsenter -t "$pid" -m -- sh -c '
    for f in /etc /usr /var /opt/curie; do touch $f/x 2>/dev/null && echo "told written: $f"; done
    touch /var/lib/curie/x && rm /var/lib/curie/x && echo "told data: written"'
tell owners "$(find /var/lib/curie ! -user curie | wc -l)"
sh /trial/bundle/install.sh --offline --unsigned --python PYTHON >/dev/null; tell again $?
for _ in $(seq 60); do curie status >/dev/null 2>&1 && break; sleep 1; done
tell restarted "$([ "$(systemctl show -p MainPID --value curie)" != "$pid" ] && systemctl is-active curie)"
systemctl stop curie; tell stop "$(systemctl show -p Result --value curie) $(pgrep -cu curie)"
systemctl start curie@receiver curie@delivery; sleep 15
tell single "$(systemctl is-active curie@receiver curie@delivery | tr '\n' ' ')"
systemctl stop 'curie@*'
tell timer "$(systemctl is-active curie-backup.timer)"
echo '[nonsense]' >> /etc/curie/curie.toml
systemctl start curie; sleep 12
tell nonsense "$(systemctl show -p ActiveState -p ExecMainStatus -p NRestarts --value curie | tr '\n' ' ')"
journalctl -u curie --no-pager | tail -n 40
"""


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Path]:
    """The root of a machine that begins as this one."""
    for name in ("above", "work", "root"):
        (tmp_path / name).mkdir()
    (tmp_path / "above").chmod(0o755)
    options = f"lowerdir=/,upperdir={tmp_path / 'above'},workdir={tmp_path / 'work'}"
    ran = run("mount", "-t", "overlay", "overlay", "-o", options, tmp_path / "root")
    if ran.returncode:
        pytest.skip(f"no overlay can be mounted here: {ran.stdout.strip()}")
    yield tmp_path / "root"
    run("umount", "--lazy", tmp_path / "root")


def boot(machine: Path, bundle: Path) -> str:
    """Return what the trial told."""
    place = machine / "trial"
    (place / "bundle").mkdir(parents=True)
    (place / "trial.sh").write_text(TRIAL.replace("PYTHON", SYSTEMS_OWN))
    (place / "study.py").write_text((ROOT / "tests" / "deploy" / "study.py").read_text())
    for name, text in UNITS.items():
        (machine / "etc" / "systemd" / "system" / name).write_text(text)
    words = [tool("systemd-nspawn"), "-q", "-D", machine, "--register=no", "--keep-unit", "--private-network"]
    words += [f"--bind-ro={bundle}:/trial/bundle", "--boot", "--", "--unit=trial.target"]
    booted = run(*words, timeout=1200)
    log = place / "log"
    if not log.exists():
        pytest.skip(f"systemd does not boot here: {booted.stdout[-300:]}")
    return log.read_text()


def test_a_bare_host_comes_to_a_confined_appliance(machine: Path, tmp_path: Path) -> None:
    tool("systemd-nspawn")
    if run(
        SYSTEMS_OWN, "-c", "import sys, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))"
    ).returncode:
        pytest.skip(f"{SYSTEMS_OWN} is not 3.11 to 3.13 with venv")
    bundle = tmp_path / "bundle"
    succeeds("sh", DEPLOY / "install.sh", "--bundle", bundle, "--python", SYSTEMS_OWN, timeout=3000)
    log = boot(machine, bundle)
    told = dict(line.removeprefix("told ").split(": ", 1) for line in log.splitlines() if line.startswith("told "))
    assert told["install"] == told["start"] == told["ready"] == told["again"] == "0", log
    assert told["study"] == "0", log
    assert told["user"] == "curie"
    assert told["rights"].split() == [
        *("CapEff:", "0000000000000000", "CapBnd:", "0000000000000000", "NoNewPrivs:", "1", "Seccomp:", "2")
    ]
    assert "written" not in told
    assert told["data"] == "written"
    assert told["owners"] == "0", "nothing of root's lies in data_dir"
    assert told["restarted"] == "active"
    assert told["stop"] == "success 0"
    assert told["single"] == "active active "
    assert told["timer"] == "active"
    assert told["nonsense"].split() == ["0", "2", "failed"], "wrong settings are told once, not tried again"
    assert "unknown setting nonsense" in log
