"""A study of made-up images to one receiver, and the small PACS that waits for what is found. Real processes.

As a program, beside a curie that runs: `python study.py PACS_FOLDER PACS_PORT`; exit code 0 when the PACS has all.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from appliance.cli.demo import send
from appliance.settings import load
from dicom_nodes.sample import write_sample

WAIT_S = 240


def main(folder: Path, port: int) -> int:
    """Send the sample, wait for its two results, and end the PACS."""
    settings = load()
    words = [sys.executable, "-m", "dicom_nodes.demo_pacs", str(folder), str(port)]
    pacs = subprocess.Popen([*words, "--report-to", str(settings.receiver.port)], cwd="/")
    try:
        print("sent", send(write_sample(folder.parent / "sample", "a study under deploy/"), settings), flush=True)
        deadline = time.monotonic() + WAIT_S
        while len(list(folder.glob("2.25.*.dcm"))) < 2 and time.monotonic() < deadline:
            time.sleep(0.5)
        time.sleep(3)  # what comes twice would come now
    finally:
        pacs.terminate()
        pacs.wait(timeout=10)
    kept = len(list(folder.glob("2.25.*.dcm")))
    print("in the PACS:", kept)
    return int(kept != 2)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2])))
