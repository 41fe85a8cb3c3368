"""Stock NVFLARE as a subject: provisioned by its own tool, run as its documentation says, its FedAvg, its defaults.

Changed is only what must be: its policy allows our network and executor, and its store lies in a folder of the run.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import psutil

from bench.consortium import wait_for
from bench.counting import CountingDoor
from bench.receivers import free_port
from bench.wide_network import KWARGS

ROOT = Path(__file__).parent.parent
LEAD, SERVER = "lead@consortium.org", "localhost"
NETWORK = "models.networks.ThinUNet"
PERSISTOR = "nvflare.app_opt.pt.file_model_persistor.PTFileModelPersistor"
EXECUTOR = "bench.stock_site.StockSite"
FEDAVG = "nvflare.app_common.workflows.fedavg.FedAvg"
ENDED = ("FINISHED", "FAILED", "ABANDONED", "ABNORMAL")
PROJECT = """
api_version: 3
name: stock
description: stock
participants:
  - {{name: localhost, type: server, org: consortium, fed_learn_port: {port}}}
  - {{name: site-1, type: client, org: consortium}}
  - {{name: site-2, type: client, org: consortium, connect_to: {{host: localhost, port: {door}}}}}
  - {{name: lead@consortium.org, type: admin, org: consortium, role: lead}}
builders:
  - {{path: nvflare.lighter.impl.workspace.WorkspaceBuilder}}
  - {{path: nvflare.lighter.impl.static_file.StaticFileBuilder, args: {{config_folder: config, scheme: grpc}}}}
  - {{path: nvflare.lighter.impl.cert.CertBuilder}}
  - {{path: nvflare.lighter.impl.signature.SignatureBuilder}}
"""


class Stock:
    """One server and two sites; the second calls through a door that counts."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True)
        self.port = free_port()
        self.door = CountingDoor(self.port)
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.sessions: list[Any] = []
        (folder / "project.yml").write_text(PROJECT.format(port=self.port, door=self.door.port))
        tool = [sys.executable, "-m", "nvflare.cli", "provision", "-p", "project.yml", "-w", "made", "--force"]
        subprocess.run(tool, cwd=folder, check=True, capture_output=True, timeout=120)
        self.kits = folder / "made" / "stock" / "prod_00"
        for name in (SERVER, "site-1", "site-2"):
            self._allow(name)

    def marks(self, site: str) -> Path:
        """Return the file in which a site notes its moments."""
        return self.folder / f"{site}.marks"

    def _allow(self, name: str) -> None:
        """Let a party's policy allow what the job names."""
        local = self.kits / name / "local"
        text = (local / "resources.json.default").read_text().replace("/tmp/nvflare", str(self.folder / "store"))
        resources = json.loads(text)
        resources["class_allow_list"] += [NETWORK, PERSISTOR, EXECUTOR]
        (local / "resources.json").write_text(json.dumps(resources, indent=1))

    def start(self) -> None:
        """Start all."""
        self.start_server()
        for site in ("site-1", "site-2"):
            marks = {"CURIE_BENCH_MARKS": str(self.marks(site))}
            self._run(site, "client.client_train", "fed_client.json", f"uid={site}", marks)

    def start_server(self) -> None:
        """Start the server."""
        self._run(SERVER, "server.server_train", "fed_server.json", "", {})

    def _run(self, name: str, module: str, file: str, more: str, environment: Mapping[str, str]) -> None:
        given = ["secure_train=true", *([more] if more else []), "org=consortium", "config_folder=config"]
        command = [sys.executable, "-u", "-m", f"nvflare.private.fed.app.{module}", "-m", str(self.kits / name)]
        own = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        with open(self.folder / f"{name}.log", "ab") as log:
            self.processes[name] = subprocess.Popen(
                [*command, "-s", file, "--set", *given],
                cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env={**os.environ, **own, **environment},
            )  # fmt: skip

    def kill(self, name: str) -> None:
        """kill -9 a party and its jobs."""
        process = self.processes[name]
        below = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        process.kill()
        process.wait()
        kill_all(below)

    def stop(self) -> None:
        """End all; a session that is left open keeps this process from ending."""
        for session in self.sessions:
            tried(session.close)
        for name in self.processes:
            self.kill(name)
        self.door.close()

    def submit(self, rounds: int, site: Mapping[str, Any]) -> Callable[[], bool]:
        """Start a job once both sites are there; returns what tells whether it has ended."""
        from nvflare.fuel.flare_api.flare_api import new_secure_session

        job = write_job(self.folder / "job", rounds, site)
        with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):  # it talks to a terminal
            session = wait_for(
                "the server", lambda: tried(lambda: new_secure_session(LEAD, str(self.kits / LEAD))), 60, every_s=1
            )
        self.sessions.append(session)
        wait_for("both sites", lambda: len(session.get_connected_client_list()) == 2, 60, every_s=0.5)
        number = session.submit_job(str(job))
        return lambda: any(word in str(tried(lambda: session.get_job_status(number))).upper() for word in ENDED)


def tried(ask: Callable[[], Any]) -> Any:
    """Return what `ask` returns, None where it cannot."""
    try:
        return ask()
    except Exception:  # noqa: BLE001 - the engine's own errors have no common ground
        return None


def kill_all(processes: list[psutil.Process]) -> None:
    """kill -9 what is left of some processes."""
    for one in processes:
        try:
            one.kill()
        except psutil.NoSuchProcess:
            continue


def write_job(folder: Path, rounds: int, site: Mapping[str, Any]) -> Path:
    """Write a job without code of its own and return its folder; `site` are the executor's arguments."""
    model = {"path": NETWORK, "args": KWARGS}
    fedavg = {"id": "fedavg", "path": FEDAVG, "args": {"num_clients": 2, "num_rounds": rounds}}
    persistor = {"id": "persistor", "path": PERSISTOR, "args": {"model": model}}
    executor = {"path": EXECUTOR, "args": dict(site)}
    files = {
        "meta.json": {"name": "stock", "min_clients": 2, "resource_spec": {}, "deploy_map": {"app": ["@ALL"]}},
        "app/config/config_fed_server.json": {
            "format_version": 2, "workflows": [fedavg], "components": [persistor],
        },
        "app/config/config_fed_client.json": {
            "format_version": 2, "executors": [{"tasks": ["train"], "executor": executor}], "components": [],
        },
    }  # fmt: skip
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(content, indent=1))
    return folder
