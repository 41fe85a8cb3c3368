"""A whole appliance (`curie up`) and a real PACS (Orthanc), as processes on this host: for acceptance and for load.

Orthanc listens on all addresses: run it in a network of its own. Everything is ended by its process id.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.consortium import CURIE, wait_for
from bench.receivers import free_port

LOOPBACK = "127.0.0.1"


class Appliance:
    """`curie up` in a folder of its own."""

    def __init__(self, folder: Path, port: int, settings: str) -> None:
        """`settings`: the text of curie.toml, whose receiver listens on `port`."""
        self.folder, self.port = folder, port
        self.file = folder / "curie.toml"
        folder.mkdir(parents=True, exist_ok=True)
        self.file.write_text(settings)
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Start and wait for the ready line."""
        command = [*CURIE, "up", "--config", str(self.file)]
        with open(self.folder / "up.log", "a") as log:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            line = lines.readline()
        assert line.startswith("ready"), (self.folder / "up.log").read_text()[-3000:]

    def stop(self) -> int:
        """SIGTERM; returns the exit code. Everything has ended 20 s later."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=20)

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run one command on this appliance."""
        command = [*CURIE, *words, "--config", str(self.file)]
        return subprocess.run(command, capture_output=True, text=True, timeout=120)

    def json(self, *words: str) -> Any:
        """Run one command and return its JSON."""
        ran = self.run(*words, "--json")
        assert ran.returncode in (0, 1), ran.stderr
        return json.loads(ran.stdout)

    def pid(self, name: str) -> int:
        """Return the process id of a process by the beginning of its name."""
        processes = self.json("status")["processes"]
        return int(next(p["pid"] for p in processes if p["name"].startswith(name) and p["healthy"]))


class Orthanc:
    """A real PACS."""

    def __init__(
        self, folder: Path, curie_port: int, host: str = LOOPBACK, curie: str = LOOPBACK, inside: Sequence[str] = ()
    ) -> None:
        """`inside`: the words that bring a program to its host."""
        self.folder, self.host, self.curie, self.inside = folder, host, curie, list(inside)
        self.http, self.port, self.curie_port = free_port(), free_port(), curie_port
        self.process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)

    def start(self) -> None:
        """Start and wait until it answers."""
        configuration = {
            "Name": "acceptance",
            "StorageDirectory": str(self.folder / "storage"),
            "IndexDirectory": str(self.folder / "storage"),
            "HttpPort": self.http,
            "DicomPort": self.port,
            "DicomAet": "ORTHANC",
            "DicomCheckCalledAet": True,
            "DicomAlwaysAllowStore": True,
            "AuthenticationEnabled": False,
            "RemoteAccessAllowed": self.host != LOOPBACK,
            "OverwriteInstances": False,
            "Plugins": [],
            "DicomModalities": {"curie": ["CURIE", self.curie, self.curie_port]},
        }
        file = self.folder / "orthanc.json"
        file.write_text(json.dumps(configuration))
        environment = {**os.environ, "TCP_NODELAY": "1"}
        with open(self.folder / "orthanc.log", "ab") as log:
            self.process = subprocess.Popen(
                [*self.inside, "Orthanc", str(file)], stdout=log, stderr=log, env=environment
            )
        wait_for("Orthanc", self._answers, 30)

    def _answers(self) -> bool:
        try:
            self.get("/system")
        except OSError:
            return False
        return True

    def stop(self) -> None:
        """End the process."""
        if self.process is not None:
            self.process.terminate()
            self.process.wait(timeout=20)
            self.process = None

    def get(self, path: str) -> Any:
        """Return the JSON at a path of the REST interface."""
        with urllib.request.urlopen(f"http://{self.host}:{self.http}{path}", timeout=20) as answer:
            return json.load(answer)

    def content(self, path: str) -> bytes:
        """Return the bytes at a path."""
        with urllib.request.urlopen(f"http://{self.host}:{self.http}{path}", timeout=60) as answer:
            found: bytes = answer.read()
        return found

    def post(self, path: str, body: Any) -> Any:
        """Post JSON and return the answer."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        request = urllib.request.Request(f"http://{self.host}:{self.http}{path}", data=content, method="POST")
        with urllib.request.urlopen(request, timeout=300) as answer:
            return json.load(answer)

    def results(self, study: str) -> dict[str, list[str]]:
        """Return the Orthanc ids of what a study holds beside its images, by modality."""
        query = {"Level": "Series", "Query": {"StudyInstanceUID": study}, "Expand": True}
        found: dict[str, list[str]] = {}
        for series in self.post("/tools/find", query):
            if series["MainDicomTags"]["Modality"] in ("SEG", "SR"):
                found.setdefault(series["MainDicomTags"]["Modality"], []).extend(series["Instances"])
        return found

    def send_all_to_curie(self) -> None:
        """Forward every instance to the appliance, as an auto-forwarding PACS does."""
        self.post("/modalities/curie/store", self.get("/instances"))
