"""Real processes between a worklist, a DICOMweb PACS and a RIS: one workitem, one set of results, one message."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hl7apy.parser import parse_message

from tests.acceptance.house import Appliance, dcmsend, wait_for
from tests.mllp_listener import Listener
from tests.phantoms import Phantom, part10, series
from tests.web_server import Reply, Request, WebServer, references, response
from tests.workitem_server import Worklist, found, value

pytestmark = pytest.mark.acceptance
SETTINGS = """
[appliance]
data_dir = "data"
[spool]
reserve_gb = 0.2
[receiver]
host = "127.0.0.1"
port = {port}
[completeness]
after_release_s = 1
[[sources]]
ae_title = "SCANNER"
[[destinations]]
name = "web"
url = "{pacs}"
[[routes]]
name = "brain"
package = "brain-structures"
destinations = ["web"]
on_request = true
[[worklists]]
name = "list"
url = "{worklist}"
route = "brain"
scheduled_station = "CURIE"
poll_s = 0.5
[[messages]]
name = "ris"
host = "127.0.0.1"
port = {ris}
"""
UID = "1.9.1"


class Outside:
    """Everybody the appliance speaks with, and the appliance."""

    def __init__(self, folder: Path) -> None:
        self.worklist, self.ris, self.pacs = Worklist(), Listener(), WebServer(self._stores)
        for one in (self.worklist, self.ris, self.pacs):
            one.start()
        self.stored: list[str] = []
        self.appliance = Appliance(folder, 1)
        self.appliance.file.write_text(
            SETTINGS.format(port=self.appliance.port, pacs=self.pacs.url, worklist=self.worklist.url, ris=self.ris.port)
        )

    def _stores(self, request: Request) -> Reply:
        if request.method != "POST":
            return 200, []
        new = references(request)
        self.stored += [one["00081155"]["Value"][0] for one in new]
        return 200, response(new)

    def kill(self, name: str) -> None:
        """Kill one process of the appliance; its supervisor starts it again."""
        os.kill(self.appliance.pid(name), signal.SIGKILL)

    def stop(self) -> None:
        if self.appliance.process:
            self.appliance.stop()
        for one in (self.worklist, self.ris, self.pacs):
            one.stop()


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Outside]:
    made = Outside(tmp_path / "curie")
    yield made
    made.stop()


def written(folder: Path) -> tuple[Path, str]:
    """Return a folder with a study of a head, and its UID."""
    images = series(Phantom(slices=36, rows=72, columns=64, spacing=(4.0, 2.8, 2.8)))
    folder.mkdir()
    for n, ds in enumerate(images):
        (folder / f"{n:03}.dcm").write_bytes(part10(ds))
    return folder, str(images[0].StudyInstanceUID)


def test_a_workitem_is_completed_once_whatever_is_killed(outside: Outside, tmp_path: Path) -> None:
    folder, study = written(tmp_path / "images")
    there, appliance = outside.worklist, outside.appliance
    there.schedule(UID, study, _00741200=value("CS", "HIGH"))
    appliance.start()
    wait_for("the workitem is seen", lambda: appliance.json("status")["workitems"]["scheduled"], 30)
    dcmsend([folder], appliance.port)
    wait_for("the claim", lambda: there.states, 60)
    outside.kill("dispatch")
    wait_for("results", lambda: outside.stored, 120)
    outside.kill("delivery")
    outside.kill("dispatch")
    wait_for("the end", lambda: there.state(UID) == "COMPLETED", 60)
    message = wait_for("the message", lambda: outside.ris.messages, 60)[-1]
    assert there.states == [(UID, "IN PROGRESS"), (UID, "COMPLETED")]
    told: dict[str, Any] = appliance.json("explain", study)
    (outcome,) = [one for one in told["outcomes"] if one["route"] == "brain"]
    assert [one["state"] for one in told["workitems"]] == ["closed"]
    made = {one["sop_instance_uid"] for one in outcome["results"]}
    assert set(outside.stored) == made
    assert set(found(there.items[UID], "00741216", "00404033", "00081199", "00081155")) == made
    read = parse_message(message.decode(), find_groups=True)
    read.validate()
    volumes = {m["value"] for one in outcome["findings"] for m in one["measurements"]}
    assert volumes
    sent = [line.split("|") for line in message.decode().split("\r") if line.startswith("OBX")]
    assert {float(one[5]) for one in sent if one[2] == "NM"} == volumes
    log = (appliance.folder / "up.log").read_text()
    assert "Phantom" not in log
