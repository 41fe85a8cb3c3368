"""One process per worker that holds the models, so that a hung or exploding run can be killed without the worker.

The two ends speak short JSON lines over a pipe, which never fills, and hand voxels over as plain .npy files; nothing is
unpickled. The child ends when its parent does. Each answer bears its request's number; those of loads that nobody
waited for are kept until they are asked for.
"""

from __future__ import annotations

import ctypes
import itertools
import json
import multiprocessing
import os
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from appliance import errors
from appliance.errors import CurieError
from appliance.settings import Worker
from appliance.volume import Volume
from models.package import Package
from models.reading import Reading
from workers.pipeline import Inferred

POLL_S = 0.2
BUILD_LIMIT_S = 3600.0  # of loading one package, every engine of it built
HARMLESS = ("StudyUnsuitable", "StudyBlocked", "PackageRefused", "ResultRejected", "Missing")  # the child is well
PASSED_ON = (*HARMLESS, "EngineUnavailable")


class EngineDied(CurieError):
    """The engine process ended in mid-run, was killed on its time limit, or broke."""


@dataclass(frozen=True)
class Wanted:
    """A package to run, the package that locates for it, and what it was measured to need."""

    package: Package
    locator: Package | None = None
    need_mb: float | None = None
    mapped: bool = False  # with the probability map that the package declares

    def record(self) -> dict[str, Any]:
        """Return this as the child reads it."""
        return {
            "package": str(self.package.folder),
            "digest": self.package.digest,
            "locator": [str(self.locator.folder), self.locator.digest] if self.locator else None,
            "need_mb": self.need_mb,
            "mapped": self.mapped,
        }


class EngineProcess:
    """The parent's end: starts the child when needed, sends one study at a time, kills it when it must."""

    def __init__(self, worker: Worker, folder: Path, cache: Path | None = None) -> None:
        self.worker = worker
        self.folder = folder  # where voxels and labels are handed over
        self.cache = cache  # of built engines
        self._child: Any = None
        self._pipe: Connection | None = None
        self._numbers = itertools.count(1)
        self._loads: dict[int, str] = {}  # request → package digest
        self._loaded: list[dict[str, Any]] = []
        self._asked: set[str] = set()  # digests that this child was asked to load
        self._given_up: set[str] = set()  # digests whose loading ended a child

    def start(self) -> None:
        """Start the child unless it runs."""
        if self._child is not None and self._child.is_alive():
            return
        self.kill()
        context = multiprocessing.get_context("spawn")
        self._pipe, far_end = context.Pipe()
        settings = self.worker.model_dump_json()
        cache = str(self.cache) if self.cache else ""
        self._child = context.Process(target=serve, args=(far_end, settings, cache), name="engine")
        self._child.start()
        far_end.close()

    @property
    def pid(self) -> int | None:
        """Process id of the child, or None."""
        return self._child.pid if self._child is not None else None

    def kill(self) -> None:
        """End the child at once."""
        if self._child is not None:
            if not self._child.is_alive():
                self._give_up("the engine process ended while it loaded this package")
            self._child.kill()
            self._child.join(timeout=10)
            self._child = None
        if self._pipe is not None:
            self._pipe.close()
            self._pipe = None
        self._loads.clear()
        self._asked.clear()

    def knows(self, digest: str) -> bool:
        """Return whether the child was asked to load a package, or had better not be."""
        alive = self._child is not None and self._child.is_alive()
        return digest in self._given_up or (alive and digest in self._asked)

    def warm(self, wanted: Wanted) -> None:
        """Start the child and let it load a package, without waiting for it."""
        self.start()
        number = self._send({"op": "load", **wanted.record()})
        self._asked.add(wanted.package.digest)
        self._loads[number] = wanted.package.digest

    def load(self, wanted: Wanted) -> dict[str, Any]:
        """Let the child load a package and return what it runs on; raises as `read`."""
        self.start()
        number = self._send({"op": "load", **wanted.record()})
        answer = self._answer(number, BUILD_LIMIT_S, lambda: None)
        if "error" in answer:
            raise _error(answer)
        return answer

    def loaded(self) -> list[dict[str, Any]]:
        """Return the answers to loads that nobody waited for, with the package's `digest`; each only once."""
        self._collect()
        found, self._loaded = self._loaded, []
        return found

    def _collect(self) -> None:
        while self._pipe is not None and self._loads and self._pipe.poll(0):
            try:
                self._sort(json.loads(self._pipe.recv_bytes()))
            except (EOFError, ConnectionResetError):
                return  # the next request starts a new child

    def _give_up(self, why: str) -> None:
        """Never again ask for what the child is loading: it would end the next one too. A study may still ask."""
        self._collect()
        digest = next(iter(self._loads.values()), None)
        if digest is not None:
            self._given_up.add(digest)
            self._loaded.append({"digest": digest, "error": "EngineDied", "message": why})

    def read(self, sequence: Sequence[Sequence[Volume]], wanted: Wanted, keep_going: Callable[[], None]) -> Inferred:
        """Run a package in the child on a sequence of moments, each with a volume of every input.

        `keep_going` is called every 0.2 s and raises to stop; the child is killed then, as on the time limit, which
        begins when the package is loaded. Where an engine broke, the next study finds a new child. Raises the child's
        own errors, or EngineDied.
        """
        self.start()
        try:
            number = self._send({"op": "read", **wanted.record(), **self._hand_over(sequence)})
            answer = self._answer(number, wanted.package.manifest.resources.timeout_s, keep_going)
            if answer.get("error", HARMLESS[0]) not in HARMLESS:
                raise _error(answer)
        except BaseException:
            self.kill()
            raise
        if "error" in answer:
            raise _error(answer)
        inferred = self._inferred(answer)
        if answer["broken"]:
            self.kill()
        return inferred

    def _inferred(self, answer: dict[str, Any]) -> Inferred:
        count = answer["label_maps"]
        maps = tuple(np.load(self.folder / f"labels-{n}.npy", allow_pickle=False) for n in range(count))
        reading = Reading(
            maps,
            tuple(answer["scores"]),
            tuple(answer["probabilities"]),
            tuple(answer["numbers"]),
            tuple(answer["located"]),
            np.load(self.folder / "probability.npy", allow_pickle=False) if answer["mapped"] else None,
            tuple(answer["regions"]),
        )
        skipped = tuple((name, reason) for name, reason in answer["skipped"])
        return Inferred(
            reading, answer["engine"], answer["precision"], answer["cpu_s"], skipped, answer["memory_mb"],
            answer["parity"],
        )  # fmt: skip

    def _hand_over(self, sequence: Sequence[Sequence[Volume]]) -> dict[str, Any]:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True, mode=0o700)
        moments = []
        for n, volumes in enumerate(sequence):
            for m, volume in enumerate(volumes):
                np.save(self.folder / f"voxels-{n}-{m}.npy", volume.voxels, allow_pickle=False)
            moments.append(
                [{"affine": one.affine.tolist(), "modality": one.modality, "time_ms": one.time_ms} for one in volumes]
            )
        return {"folder": str(self.folder), "moments": moments}

    def _send(self, request: dict[str, Any]) -> int:
        assert self._pipe is not None
        number = next(self._numbers)
        try:
            self._pipe.send_bytes(json.dumps({"number": number, **request}).encode())
        except (BrokenPipeError, ConnectionResetError) as error:
            raise EngineDied("the engine process ended while it was given a study") from error
        return number

    def _answer(self, number: int, limit_s: float, keep_going: Callable[[], None]) -> dict[str, Any]:
        """Return the answer to a request, within `limit_s` of the child's word that it began. Loads come before."""
        deadline, began = time.monotonic() + BUILD_LIMIT_S, False
        while True:
            if not self._waited(deadline, keep_going):
                if began:
                    raise EngineDied(f"the package's time limit of {limit_s:g} s is over; the engine was killed")
                self._give_up(f"it was not loaded within {BUILD_LIMIT_S:g} s")
                raise EngineDied(f"a package was not loaded within {BUILD_LIMIT_S:g} s; the engine was killed")
            answer = self._received()
            if answer["number"] != number:
                self._sort(answer)
                deadline = time.monotonic() + BUILD_LIMIT_S
            elif answer.get("began"):
                deadline, began = time.monotonic() + limit_s, True
            else:
                return answer

    def _waited(self, deadline: float, keep_going: Callable[[], None]) -> bool:
        """Wait for the child to say something; False once the deadline is over."""
        assert self._pipe is not None
        while not self._pipe.poll(POLL_S):
            keep_going()
            if time.monotonic() > deadline:
                return False
        return True

    def _received(self) -> dict[str, Any]:
        assert self._pipe is not None
        try:
            answer: dict[str, Any] = json.loads(self._pipe.recv_bytes())
        except (EOFError, ConnectionResetError) as error:
            self._child.join(timeout=5)
            raise EngineDied(f"the engine process ended in mid-run (exit code {self._child.exitcode})") from error
        return answer

    def _sort(self, answer: dict[str, Any]) -> None:
        digest = self._loads.pop(answer["number"], None)
        if digest is not None:
            self._loaded.append({"digest": digest, **answer})


def _error(answer: dict[str, Any]) -> CurieError:
    if answer["error"] in PASSED_ON:
        kind: type[CurieError] = getattr(errors, answer["error"])
        return kind(answer["message"])
    return EngineDied(f"the engine broke: {answer['error']}")


# --- the child ---


def serve(pipe: Connection, settings: str, cache: str) -> None:
    """Answer requests until the other end closes. Runs in the child."""
    threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()
    shelf = _shelf(Worker.model_validate_json(settings), cache)
    while True:
        try:
            request = json.loads(pipe.recv_bytes())
        except (EOFError, OSError):
            return

        def tell(answer: dict[str, Any], number: int = request["number"]) -> None:
            pipe.send_bytes(json.dumps({"number": number, **answer}).encode())

        try:
            answer = _load(shelf, request) if request["op"] == "load" else _read(shelf, request, tell)
        except Exception as error:  # noqa: BLE001 - the edge of this process: every error becomes an answer
            answer = {"error": _kind(error), "message": str(error)}
        tell(answer)
        give_back_memory()


def give_back_memory() -> None:
    """Return to the system what a run freed; glibc keeps it, and the process would seem to grow study by study."""
    with suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


def _kind(error: Exception) -> str:
    """Return the name under which the parent knows an error: the nearest of those that are passed on."""
    names = [kind.__name__ for kind in type(error).__mro__]
    return next((name for name in names if name in PASSED_ON), names[0])


def _end_with_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def _shelf(worker: Worker, cache: str) -> Any:
    from models.engines import Place
    from models.shelf import Shelf

    place = Place(worker.device, Path(cache) if cache else None)
    return Shelf(worker.backends, place, worker.memory_gb)


def _packages(request: dict[str, Any]) -> tuple[Any, Any]:
    from models.package import load_package

    package = load_package(Path(request["package"]), request["digest"])
    locator = request["locator"]
    return package, load_package(Path(locator[0]), locator[1]) if locator else None


def _load(shelf: Any, request: dict[str, Any]) -> dict[str, Any]:
    package, locator = _packages(request)
    if locator:
        shelf.take(locator)
    record: dict[str, Any] = shelf.take(package, request["need_mb"]).record()
    return record


def _read(shelf: Any, request: dict[str, Any], tell: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    package, locator = _packages(request)
    folder = Path(request["folder"])
    sequence = [
        [_volume(folder / f"voxels-{n}-{m}.npy", one) for m, one in enumerate(volumes)]
        for n, volumes in enumerate(request["moments"])
    ]
    shelf.prepare(sequence, package, locator, request["need_mb"])
    tell({"began": True})
    started = time.process_time()
    reading, loaded = shelf.read(sequence, package, locator, mapped=request["mapped"])
    for n, label_map in enumerate(reading.label_maps):
        np.save(folder / f"labels-{n}.npy", np.asarray(label_map, np.uint8), allow_pickle=False)
    if reading.probability is not None:
        np.save(folder / "probability.npy", reading.probability, allow_pickle=False)
    return {
        **loaded.record(),
        "broken": shelf.broken,
        "label_maps": len(reading.label_maps),
        "scores": reading.scores,
        "probabilities": reading.probabilities,
        "numbers": reading.numbers,
        "located": reading.located,
        "mapped": reading.probability is not None,
        "regions": reading.regions,
        "cpu_s": round(time.process_time() - started, 3),
    }


def _volume(path: Path, one: dict[str, Any]) -> Volume:
    return Volume(
        voxels=np.load(path, allow_pickle=False),
        affine=np.array(one["affine"]),
        frames=(),
        series_instance_uid="",
        frame_of_reference_uid="",
        modality=one["modality"],
        time_ms=one["time_ms"],
    )
