"""`curie run console` as a process: its port, its heartbeat, its end."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx2

from appliance.catalogue import open_catalogue, processes
from appliance.catalogue.connection import now


def until(true: Callable[[], object], seconds: float = 40) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.1)


def answers(port: int) -> bool:
    try:
        return httpx2.get(f"http://127.0.0.1:{port}/login", timeout=5).status_code == 200
    except httpx2.TransportError:
        return False


def test_a_port_that_is_taken_is_said_and_waited_for(tmp_path: Path, free_port: int) -> None:
    file = tmp_path / "curie.toml"
    file.write_text(f'[appliance]\ndata_dir = "data"\n[console]\nport = {free_port}\n')
    log = tmp_path / "log"
    taken = socket.create_server(("127.0.0.1", free_port))
    command = [sys.executable, "-m", "appliance.cli.main", "run", "console", "--config", str(file)]
    with log.open("wb") as errors:
        process = subprocess.Popen(command, stderr=errors)
    try:
        until(lambda: "cannot listen" in log.read_text())
        said = [line for line in log.read_text().splitlines() if line.startswith("curie:")]
        assert len(said) == 1
        assert f"127.0.0.1 port {free_port}: Address already in use; set console.host and console.port" in said[0]
        assert process.poll() is None
        taken.close()
        until(lambda: answers(free_port))
        catalogue = open_catalogue(f"sqlite:///{tmp_path}/data/curie.db", tmp_path / "data")
        with catalogue.read() as connection:
            (one,) = processes.listing(connection, now())
        assert (one["name"], one["pid"], one["healthy"]) == ("console", process.pid, True)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=10) == 0
        with catalogue.read() as connection:
            assert processes.listing(connection, now()) == []
        catalogue.close()
    finally:
        taken.close()
        process.kill()
        process.wait()
