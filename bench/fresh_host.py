"""From nothing to the first result: a bare Debian, install.sh, and a study, timed. Root only; it needs mmdebstrap.

What is not timed makes the caches warm: the bare system itself (Debian's smallest, in a folder), the wheels, and the
system packages fetched but not installed. Then the clock runs: install.sh with its doctor, the start, a study sent,
its results in a small PACS. The new system runs by systemd-nspawn on this host's cores and network.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.record import Record

ROOT = Path(__file__).parents[1]
SUITE = "bookworm"
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")  # where a proxy's own is among them
FETCHED = ("dicom3tools", "python3", "python3-venv", "python3-dev", "util-linux")
DESTINATION = """
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
"""
STEPS = {
    "install": "sh /from/install.sh --from /from",
    "start": r"""
sed -i 's/^unknown_sources = "refuse"/unknown_sources = "accept"/' /etc/curie/curie.toml
cat /from-bench/destination.toml >> /etc/curie/curie.toml
curie up > /tmp/ready 2>> /var/log/curie/curie.log &
echo $! > /tmp/up.pid
until grep -q ^ready /tmp/ready; do kill -0 "$(cat /tmp/up.pid)" || exit 1; sleep 0.2; done
""",
    "first result": """
CURIE_CONFIG=/etc/curie/curie.toml /opt/curie/venv/bin/python /from-bench/study.py /tmp/pacs 11104
""",
}


def call(*words: str | Path, quiet: bool = True) -> None:
    """Run a command; CalledProcessError where it fails."""
    subprocess.run([*map(str, words)], check=True, stdout=subprocess.DEVNULL if quiet else None)


def inside(root: Path, bundle: Path, *words: str | Path) -> list[str]:
    """Return the words that run a command on the new host."""
    start = [
        "systemd-nspawn",
        "-q",
        "--register=no",
        "--keep-unit",
        "--pipe",
        "-D",
        root,
        "--bind-ro",
        f"{bundle}:/from",
    ]
    return [*map(str, start), *map(str, words)]


def prepared(folder: Path) -> tuple[Path, Path]:
    """Return (a bare Debian's root, the folder of wheels), with the system packages fetched."""
    root, bundle = folder / "root", folder / "bundle"
    print("a bare Debian", flush=True)
    sources = [str(one) for one in Path("/etc/apt/sources.list.d").glob("debian.sources")]
    call("mmdebstrap", "--variant=minbase", "--include=ca-certificates", SUITE, root, *sources)
    shutil.copy(CERTIFICATES, root / CERTIFICATES.relative_to("/"))
    print("wheels", flush=True)
    call("sh", ROOT / "deploy" / "install.sh", "--bundle", bundle, "--python", "/usr/bin/python3")
    aside = root / "from-bench"
    aside.mkdir()
    shutil.copy(ROOT / "tests" / "deploy" / "study.py", aside)
    (aside / "destination.toml").write_text(DESTINATION)
    keep = root / "etc" / "apt" / "apt.conf.d" / "01keep"
    keep.write_text('APT::Keep-Downloaded-Packages "true";\nAcquire::Check-Valid-Until "false";\n')
    fetch = f"apt-get update -qq && apt-get install -y -qq --no-install-recommends --download-only {' '.join(FETCHED)}"
    call(*inside(root, bundle, "sh", "-c", fetch))
    return root, bundle


def main() -> int:
    """Run it once; returns 1 where no result came."""
    if os.geteuid() != 0:
        sys.exit("a system in a folder of its own needs root")
    absent = [tool for tool in ("mmdebstrap", "systemd-nspawn") if shutil.which(tool) is None]
    if absent:
        sys.exit(f"not installed: {', '.join(absent)}; make bench-fresh-host installs them")
    record = Record("fresh_host", ())
    with tempfile.TemporaryDirectory() as name:
        root, bundle = prepared(Path(name))
        steps = "\n".join(f"{text}\necho 'at {step}' $(date +%s.%N)" for step, text in STEPS.items())
        ending = 'kill "$(cat /tmp/up.pid)"; wait'
        script = root / "from-bench" / "steps.sh"
        script.write_text(f"set -e\n{steps}\n{ending}\n")
        began = time.time()
        words = inside(root, bundle, "sh", "/from-bench/steps.sh")
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as ran:
            assert ran.stdout is not None
            before = began
            for line in ran.stdout:
                print(line, end="", flush=True)
                if line.startswith("at "):
                    *step, at = line.removeprefix("at ").split()
                    record.rows.append({"case": " ".join(step), "seconds": round(float(at) - before, 1)})
                    before = float(at)
    if ran.returncode != 0 or len(record.rows) != len(STEPS):
        print(f"the new host came no further (exit code {ran.returncode})")
        return 1
    record.ratio("minutes_to_first_result", [(before - began) / 60])
    path = record.write()
    for row in record.rows:
        print(f"{row['case']:14} {row['seconds']:7.1f} s")
    print(
        f"{(before - began) / 60:.1f} minutes from nothing to the first result; load {record.load_before:.1f}; {path}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
