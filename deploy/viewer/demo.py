"""A PACS (Orthanc), the appliance, a study with its results, and the OHIF viewer before them: `make viewer-demo`.

Orthanc listens on every address of its machine, so all of it runs in a network of its own that has nothing but
loopback; only the viewer's socket, opened before, is reached from outside, on 127.0.0.1.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

HERE, ROOT = Path(__file__).parent, Path(__file__).parents[2]
ORTHANC = "http://127.0.0.1:8042"
ALONE = ("unshare", "--net", "--map-root-user", "sh", "-c", 'ip link set lo up && exec "$@"', "alone")
CURIE = (sys.executable, "-m", "appliance.cli.main")
PACKAGE = "brain-structures"  # which the one route of curie.toml names
PREFIX = "curie-viewer-"  # of the folder that all of it lives in, removed at the end
LONGEST_S = 300.0


@dataclass(frozen=True)
class Scene:
    """What runs, and the study in it."""

    url: str
    study: str  # Study Instance UID
    outcome: dict[str, Any]  # for PACKAGE, as `curie explain` tells it

    @property
    def page(self) -> str:
        """The address of the study in the viewer."""
        return f"{self.url}/viewer?StudyInstanceUIDs={self.study}"


@contextmanager
def scene(folder: Path, listening: socket.socket, images: Sequence[Path]) -> Iterator[Scene]:
    """Run everything until the end of the block; yields when the PACS holds the results of the study."""
    if [name for _, name in socket.if_nameindex()] != ["lo"]:
        raise SystemExit("Orthanc would listen on every address of this machine: run this by make, which prevents it")
    with ExitStack() as stack:
        stack.enter_context(orthanc(folder / "orthanc"))
        stack.enter_context(appliance(folder / "curie"))
        stack.enter_context(viewer(folder, listening))
        store(images)
        study = requests.get(f"{ORTHANC}/studies?expand", timeout=60).json()[0]
        uid = study["MainDicomTags"]["StudyInstanceUID"]
        requests.post(f"{ORTHANC}/modalities/curie/store", study["ID"], timeout=LONGEST_S).raise_for_status()
        outcome = wait_for("the results", lambda: final_outcome(folder / "curie" / "curie.toml", uid))
        yield Scene(f"http://127.0.0.1:{listening.getsockname()[1]}", uid, outcome)


def store(images: Sequence[Path]) -> None:
    """Put files into the PACS."""
    for path in images:
        requests.post(f"{ORTHANC}/instances", path.read_bytes(), timeout=60).raise_for_status()


def wait_for(what: str, found: Callable[[], Any], seconds: float = LONGEST_S) -> Any:
    """Return the first true answer; ends the program with a sentence when there is none in time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if answer := found():
            return answer
        time.sleep(0.3)
    raise SystemExit(f"{what}: not within {seconds:.0f} s; why is in {tempfile.gettempdir()}/{PREFIX}*/*/*.log")


@contextmanager
def running(command: Sequence[str | Path], log: Path, cwd: Path = ROOT, keep: Sequence[int] = ()) -> Iterator[Any]:
    """Run a program with its output in a file; SIGTERM at the end of the block, and wait until it has ended."""
    with open(log, "ab") as lines:
        process = subprocess.Popen(
            [str(word) for word in command],
            stdout=lines,
            stderr=lines,
            cwd=cwd,
            pass_fds=keep,
            start_new_session=True,
            env={**os.environ, "TCP_NODELAY": "1"},
        )
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextmanager
def orthanc(folder: Path) -> Iterator[None]:
    """Run the PACS."""
    folder.mkdir(parents=True)
    shutil.copy(HERE / "orthanc.json", folder)
    with running(["Orthanc", "orthanc.json"], folder / "orthanc.log", folder):
        wait_for("Orthanc", lambda: answers(f"{ORTHANC}/dicom-web/studies?limit=1"), 60)
        yield


@contextmanager
def appliance(folder: Path) -> Iterator[None]:
    """Run `curie up`."""
    folder.mkdir(parents=True)
    shutil.copy(HERE / "curie.toml", folder)
    log = folder / "up.log"
    with running([*CURIE, "up", "--config", folder / "curie.toml"], log):
        wait_for("the appliance", lambda: any(line.startswith("ready") for line in log.read_text().splitlines()), 90)
        yield


@contextmanager
def viewer(folder: Path, listening: socket.socket) -> Iterator[None]:
    """Run the viewer on a socket that listens already."""
    command = [sys.executable, "-m", "deploy.viewer.serve", "--fd", str(listening.fileno())]
    with running(command, folder / "viewer.log", keep=[listening.fileno()]):
        yield


def answers(url: str) -> bool:
    """Say whether a GET is answered well."""
    with contextlib.suppress(requests.RequestException):
        return bool(requests.get(url, timeout=5).ok)
    return False


def final_outcome(settings: Path, study: str) -> dict[str, Any] | None:
    """Return the outcome of the study for the demo's package once it is final."""
    ran = subprocess.run(
        [*CURIE, "explain", study, "--json", "--config", settings], capture_output=True, cwd=ROOT, check=False
    )
    outcomes = json.loads(ran.stdout)["outcomes"] if ran.returncode == 0 else []
    return next((one for one in outcomes if one["package"] == PACKAGE and one["outcome"] != "pending"), None)


def listening_socket(port: int = 0) -> socket.socket:
    """Return a socket that listens on loopback and may be inherited; ends the program where the port is taken."""
    try:
        listening = socket.create_server(("127.0.0.1", port))
    except OSError as error:
        raise SystemExit(
            f"port {port} cannot be had ({os.strerror(error.errno or 0)}): name another by --port"
        ) from None
    listening.set_inheritable(True)
    return listening


def show(listening: socket.socket, study: Path | None) -> None:
    """Run the demo until Ctrl-C or SIGTERM."""
    from dicom_nodes.sample import write_sample

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    folder = Path(tempfile.mkdtemp(prefix=PREFIX))
    images = sorted(p for p in study.rglob("*") if p.is_file()) if study else write_sample(folder / "sample")
    with contextlib.suppress(KeyboardInterrupt), scene(folder, listening, images) as there:
        said = f"{there.outcome['outcome']}: {there.outcome['reason']}".removesuffix(": ")
        print(f"{said}; open {there.page} (Ctrl-C ends all of it)", flush=True)
        threading.Event().wait()
    shutil.rmtree(folder)


def main() -> None:
    """Open the viewer's port, go into a network of our own, and run the demo there."""
    parser = argparse.ArgumentParser(description="Orthanc, the appliance, a study and the viewer, on loopback.")
    parser.add_argument("--port", type=int, default=8043, help="of the viewer, on 127.0.0.1")
    parser.add_argument("--study", type=Path, default=None, help="a folder of DICOM files; else the sample that ships")
    parser.add_argument("--fd", type=int, default=None, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.fd is not None:
        show(socket.socket(fileno=given.fd), given.study)
        return
    listening = listening_socket(given.port)
    more = ["--study", str(given.study.absolute())] if given.study else []
    os.execvp(ALONE[0], [*ALONE, sys.executable, "-m", "deploy.viewer.demo", "--fd", str(listening.fileno()), *more])


if __name__ == "__main__":
    main()
