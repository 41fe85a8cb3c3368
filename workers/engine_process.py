"""One process per worker that holds the models, so that a hung or exploding run can be killed without the worker.

The two ends speak short JSON lines over a pipe, which never fills, and hand voxels over as plain .npy files; nothing is
unpickled. The child ends when its parent does.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from appliance import errors
from appliance.errors import CurieError
from appliance.volume import Volume
from models.package import Package
from workers.pipeline import Inferred

POLL_S = 0.2
VOXELS, LABELS = "voxels.npy", "labels.npy"
PASSED_ON = ("StudyUnsuitable", "StudyBlocked", "PackageRefused", "EngineUnavailable", "ResultRejected")


class EngineDied(CurieError):
    """The engine process ended in mid-run, was killed on its time limit, or broke."""


class EngineProcess:
    """The parent's end: starts the child when needed, sends one volume at a time, kills it when it must."""

    def __init__(self, backends: Sequence[str], device: str, folder: Path) -> None:
        self.backends = tuple(backends)
        self.device = device
        self.folder = folder  # where voxels and labels are handed over
        self._child: Any = None
        self._pipe: Connection | None = None

    def start(self) -> None:
        """Start the child unless it runs."""
        if self._child is not None and self._child.is_alive():
            return
        self.kill()
        context = multiprocessing.get_context("spawn")
        self._pipe, far_end = context.Pipe()
        self._child = context.Process(target=serve, args=(far_end, self.backends, self.device), name="engine")
        self._child.start()
        far_end.close()

    @property
    def pid(self) -> int | None:
        """Process id of the child, or None."""
        return self._child.pid if self._child is not None else None

    def kill(self) -> None:
        """End the child at once."""
        if self._child is not None:
            self._child.kill()
            self._child.join(timeout=10)
            self._child = None
        if self._pipe is not None:
            self._pipe.close()
            self._pipe = None

    def warm(self, package: Package) -> None:
        """Start the child and let it load a package, without waiting for it."""
        self.start()
        self._send({"op": "load", "package": str(package.folder)})

    def segment(self, volume: Volume, package: Package, keep_going: Callable[[], None]) -> Inferred:
        """Run a package on a volume in the child.

        `keep_going` is called every 0.2 s and raises to stop; the child is killed then, as on the time limit.
        Raises the child's own errors, or EngineDied.
        """
        self.start()
        try:
            self._request(volume, package)
            answer = self._answer(package, keep_going)
        except BaseException:
            self.kill()
            raise
        if "error" in answer:
            raise _error(answer)
        labels = np.load(self.folder / LABELS, allow_pickle=False)
        skipped = tuple((name, reason) for name, reason in answer["skipped"])
        return Inferred(labels, answer["engine"], answer["precision"], answer["cpu_s"], skipped)

    def _request(self, volume: Volume, package: Package) -> None:
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        np.save(self.folder / VOXELS, volume.voxels, allow_pickle=False)
        self._send(
            {
                "op": "segment",
                "package": str(package.folder),
                "folder": str(self.folder),
                "affine": volume.affine.tolist(),
                "modality": volume.modality,
            }
        )

    def _send(self, request: dict[str, Any]) -> None:
        assert self._pipe is not None
        try:
            self._pipe.send_bytes(json.dumps(request).encode())
        except (BrokenPipeError, ConnectionResetError) as error:
            raise EngineDied("the engine process ended while it was given a volume") from error

    def _answer(self, package: Package, keep_going: Callable[[], None]) -> dict[str, Any]:
        assert self._pipe is not None
        limit_s = package.manifest.resources.timeout_s
        deadline = time.monotonic() + limit_s
        while not self._pipe.poll(POLL_S):
            keep_going()
            if time.monotonic() > deadline:
                raise EngineDied(f"the package's time limit of {limit_s} s is over; the engine was killed")
        try:
            answer: dict[str, Any] = json.loads(self._pipe.recv_bytes())
        except (EOFError, ConnectionResetError) as error:
            self._child.join(timeout=5)
            raise EngineDied(f"the engine process ended in mid-run (exit code {self._child.exitcode})") from error
        return answer


def _error(answer: dict[str, Any]) -> CurieError:
    if answer["error"] in PASSED_ON:
        kind: type[CurieError] = getattr(errors, answer["error"])
        return kind(answer["message"])
    return EngineDied(f"the engine broke: {answer['error']}")


# --- the child ---


def serve(pipe: Connection, backends: Sequence[str], device: str) -> None:
    """Answer requests until the other end closes. Runs in the child."""
    threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()
    loaded: dict[str, Any] = {}
    while True:
        try:
            request = json.loads(pipe.recv_bytes())
        except (EOFError, OSError):
            return
        try:
            choice = _loaded(loaded, request["package"], backends, device)
            answer = _run(choice, request) if request["op"] == "segment" else None
        except Exception as error:  # noqa: BLE001 - the edge of this process: every error becomes an answer
            answer = {"error": type(error).__name__, "message": str(error)} if request["op"] == "segment" else None
        if answer is not None:
            pipe.send_bytes(json.dumps(answer).encode())


def _end_with_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def _loaded(loaded: dict[str, Any], folder: str, backends: Sequence[str], device: str) -> Any:
    """Return (package, engine choice), loading and checking it the first time."""
    from models.engines import choose_engine
    from models.package import load_package

    package = load_package(Path(folder))
    if package.digest not in loaded:
        loaded[package.digest] = (package, choose_engine(package, backends, device))
    return loaded[package.digest]


def _run(loaded: Any, request: dict[str, Any]) -> dict[str, Any]:
    from models.inference import segment

    package, choice = loaded
    folder = Path(request["folder"])
    volume = Volume(
        voxels=np.load(folder / VOXELS, allow_pickle=False),
        affine=np.array(request["affine"]),
        frames=(),
        series_instance_uid="",
        frame_of_reference_uid="",
        modality=request["modality"],
    )
    started = time.process_time()
    labels = segment(volume, package, choice.engine)
    np.save(folder / LABELS, np.asarray(labels, dtype=np.uint8), allow_pickle=False)
    return {
        "engine": choice.engine.name,
        "precision": choice.engine.precision,
        "skipped": choice.skipped,
        "cpu_s": round(time.process_time() - started, 3),
    }
