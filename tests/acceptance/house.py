"""Real processes for acceptance: `curie up`, Orthanc, DCMTK's tools. Ended by process id.

Everything runs in a network namespace of its own (the Makefile sees to it), because Orthanc listens on all addresses.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import pytest

from bench import one_house
from bench.consortium import CURIE as CURIE
from bench.consortium import wait_for as wait_for
from bench.one_house import Orthanc as Orthanc
from bench.receivers import free_port as free_port

SETTINGS = """
[appliance]
name = "st-elsewhere"
uid = "2.25.1914"
data_dir = "data"
[spool]
reserve_gb = 0.2
[receiver]
host = "127.0.0.1"
port = {port}
{receiver}
[completeness]
after_release_s = 2
quiet_s = 15
[[sources]]
ae_title = "SCANNER"
hosts = ["127.0.0.0/8"]
[[sources]]
ae_title = "ORTHANC"
hosts = ["127.0.0.0/8"]
host = "127.0.0.1"
port = {pacs_port}
[[destinations]]
name = "pacs"
ae_title = "ORTHANC"
host = "127.0.0.1"
port = {pacs_port}
[[routes]]
name = "brain-mr"
package = "brain-structures"
destinations = ["pacs"]
match = {{ Modality = "MR" }}
[[routes]]
name = "anything"
package = "brain-structures"
destinations = ["pacs"]
"""


def absent(what: str) -> NoReturn:
    """Fail because something that acceptance needs is not there; ALLOW_SKIPS=1 skips instead."""
    if os.environ.get("ALLOW_SKIPS") == "1":
        pytest.skip(what)
    pytest.fail(f"{what}; ALLOW_SKIPS=1 runs without it")


def dcmsend(folder_or_files: Sequence[Path], port: int, calling: str = "SCANNER") -> None:
    """Send files or folders by DCMTK, as they are."""
    command = ["dcmsend", "-aet", calling, "-aec", "CURIE", "+sd", "+sp", "*.dcm", "+r", "127.0.0.1", str(port)]
    subprocess.run([*command, *map(str, folder_or_files)], check=True, env={**os.environ, "TCP_NODELAY": "1"})


class Appliance(one_house.Appliance):
    """`curie up` with brain-structures for MR, in a folder of its own."""

    def __init__(self, folder: Path, pacs_port: int, receiver: str = "", port: int | None = None) -> None:
        port = port or free_port()
        super().__init__(folder, port, SETTINGS.format(port=port, pacs_port=pacs_port, receiver=receiver))

    def outcome(self, study: str, route: str = "brain-mr") -> dict[str, Any] | None:
        """Return the outcome of a route for a study, or None while there is none."""
        ran = self.run("explain", study, "--json")
        if ran.returncode != 0:
            return None
        found = [o for o in json.loads(ran.stdout)["outcomes"] if o["route"] == route]
        return found[0] if found else None

    def final(self, study: str, route: str = "brain-mr", seconds: float = 120) -> dict[str, Any]:
        """Wait until the outcome is final, and return it."""

        def found() -> dict[str, Any] | None:
            one = self.outcome(study, route)
            return one if one and one["outcome"] != "pending" else None

        answer: dict[str, Any] = wait_for(f"outcome of {route}", found, seconds)
        return answer
