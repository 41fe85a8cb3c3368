"""`curie demo`: the whole line on this machine, with a small PACS of our own, watched from outside.

It uses only what a hospital would: C-STORE in, the catalogue's own account, and what lies in the PACS at the end.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import typer
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from appliance.cli.output import console, errors, print_json, print_table
from appliance.errors import CurieError, Missing
from appliance.settings import Destination, Settings, parse

WAIT_S = 900.0
SETTINGS = """
[appliance]
name = "curie-demo"
uid = "2.25.{uid}"
data_dir = "data"
[spool]
reserve_gb = 0.5
[receiver]
host = "127.0.0.1"
port = {port}
unknown_sources = "accept"
[console]
port = {console_port}
[[destinations]]
name = "pacs"
ae_title = "PACS"
host = "127.0.0.1"
port = {pacs_port}
[[routes]]
name = "brain-mr"
package = "brain-structures"
destinations = ["pacs"]
match = {{ Modality = "MR" }}
"""
STEPS = (
    ("complete_s", "complete", "waits 3 s after the association for stragglers"),
    ("wait_s", "started", "a worker has it"),
    ("volume_s", "volume", "slices to one grid"),
    ("inference_s", "inference", "the network"),
    ("findings_s", "findings", "volumes in ml"),
    ("results_s", "results", "SEG and SR written"),
    ("delivery_s", "delivered", "in the PACS"),
    ("commitment_s", "committed", "the PACS vouches for them"),
)
_interrupted = threading.Event()


def run_demo(path: Path | None, out: Path | None, *, keep: bool, as_json: bool) -> None:
    """Run the demo to its end. Raises Missing for a folder without images, typer.Exit(1) when no result came."""
    started = time.monotonic()
    folder = (out or Path(tempfile.mkdtemp(prefix="curie-demo-"))).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    _interrupted.clear()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    try:
        told = _watch(path, folder, as_json)
    finally:
        if not keep:
            shutil.rmtree(folder / "appliance", ignore_errors=True)
            shutil.rmtree(folder / "sample", ignore_errors=True)
    told["total_s"] = round(time.monotonic() - started, 2)
    if as_json:
        print_json(told)
    else:
        _print(told, folder)
    if not told["results"]:
        raise typer.Exit(1)


def _interrupt(number: int, frame: object) -> None:  # noqa: ARG001
    _interrupted.set()  # what is raised inside a finaliser is lost
    raise KeyboardInterrupt


def _watch(path: Path | None, folder: Path, as_json: bool) -> dict[str, Any]:
    home = folder / "appliance"
    with ExitStack() as stack:
        show = stack.enter_context(_progress(as_json))
        show("preparing the study")
        files = _files(path, folder)
        settings, file = write_settings(home)
        stack.enter_context(small_pacs(folder / "pacs", settings))
        show("starting broker, receiver, dispatch, worker, delivery and a small PACS")
        stack.enter_context(demo_house(settings, file, home))
        show(f"sending {len(files)} images by C-STORE")
        study = send(files, settings)
        told = _wait(study, settings, show)
        show("drawing the picture")
        return _gather(told, settings, folder, files, sample=path is None)


@contextmanager
def _progress(as_json: bool) -> Iterator[Any]:
    """Yield a function that shows what is being done; on stderr, and nothing of it in the JSON."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=errors, transient=not as_json, disable=as_json) as progress:
        task = progress.add_task("starting")

        def show(text: str) -> None:
            if _interrupted.is_set():
                raise KeyboardInterrupt
            progress.update(task, description=text)

        yield show


def _files(path: Path | None, folder: Path) -> list[Path]:
    from dicom_nodes.offline import read_images
    from dicom_nodes.sample import write_sample

    if path is None:
        return write_sample(folder / "sample", f"sample {uuid.uuid4()}")
    if not path.is_dir():
        raise Missing(f"{path} is not a folder; name a folder of DICOM files")
    found = sorted(p for p in path.rglob("*") if p.is_file())
    names = {(row.path, row.bytes) for row in read_images(found)}
    files = [p for p in found if (p.name, p.stat().st_size) in names]
    if not files:
        raise Missing(f"no DICOM image among {len(found)} files in {path}; name a folder of DICOM files")
    return files


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def write_settings(home: Path) -> tuple[Settings, Path]:
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    file = home / "curie.toml"
    ports = {name: _free_port() for name in ("port", "pacs_port", "console_port")}
    file.write_text(SETTINGS.format(uid=uuid.uuid4().int, **ports), encoding="utf-8")
    return parse(file.read_text(encoding="utf-8"), file), file


@contextmanager
def small_pacs(folder: Path, settings: Settings) -> Iterator[None]:
    pacs = settings.destinations[0]
    command = [sys.executable, "-m", "dicom_nodes.demo_pacs", str(folder), str(pacs.port)]
    process = subprocess.Popen([*command, "--report-to", str(settings.receiver.port)], start_new_session=True)
    try:
        yield
    finally:
        process.terminate()
        process.wait(timeout=10)


@contextmanager
def demo_house(settings: Settings, file: Path, home: Path) -> Iterator[None]:
    """Run all processes, watched by a thread, with their logs in a file."""
    from appliance.cli.house import House
    from appliance.log import start_logging

    start_logging("supervisor")
    stop = threading.Event()
    with open(home / "processes.log", "w", encoding="utf-8") as log:
        house = House(settings, file, log)
        with _stderr_to(log), house.running():
            house.wait_ready(stop)
            watcher = threading.Thread(target=_keep, args=(house, stop), daemon=True)
            watcher.start()
            try:
                yield
            finally:
                stop.set()
                watcher.join(timeout=10)


@contextmanager
def _stderr_to(log: Any) -> Iterator[None]:
    """Send the supervisor's own log lines to the same file."""
    import structlog

    structlog.configure(logger_factory=structlog.PrintLoggerFactory(log))
    try:
        yield
    finally:
        structlog.configure(logger_factory=structlog.PrintLoggerFactory(open(os.devnull, "w")))  # noqa: SIM115


def _keep(house: Any, stop: threading.Event) -> None:
    while not stop.wait(0.5):
        house.step()


def send(files: Sequence[Path], settings: Settings) -> str:
    """Send the files as a scanner would; return the Study Instance UID of the first."""
    from dicom_nodes import sender
    from dicom_nodes.header import read_header

    place = settings.receiver
    ourselves = Destination(name="curie", ae_title=place.ae_title, host="127.0.0.1", port=place.port)
    with sender.associate(ourselves, "SCANNER", sender.series_contexts(files)) as association:
        for file in files:
            sender.store_as_is(association, file)
    return str(read_header(files[0]).StudyInstanceUID)


def _wait(study: str, settings: Settings, show: Any) -> dict[str, Any]:
    """Return the account of the study once every outcome is final. Raises CurieError after 15 minutes."""
    from appliance.catalogue import open_catalogue, overview

    catalogue = open_catalogue(settings.catalogue_url, settings.data_dir)
    deadline = time.monotonic() + WAIT_S
    try:
        while time.monotonic() < deadline:
            with catalogue.read() as connection:
                told = _told(connection, overview, study)
            if told and told["outcomes"] and all(o["outcome"] != "pending" for o in told["outcomes"]):
                return told
            show(_stage(told))
            time.sleep(0.2)
    finally:
        catalogue.close()
    raise CurieError("no result after 15 minutes; run again with --keep and read appliance/processes.log")


def _told(connection: Any, overview: Any, study: str) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = overview.explain(connection, overview.find_study(connection, study))
    except Missing:
        return None
    return found


def _stage(told: dict[str, Any] | None) -> str:
    if told is None or not told["complete"]:
        return "received; waiting until the study is complete"
    if not told["outcomes"]:
        return "complete; routing"
    return f"job {told['outcomes'][0].get('state', '')}"


def _gather(
    told: dict[str, Any], settings: Settings, folder: Path, files: Sequence[Path], *, sample: bool
) -> dict[str, Any]:
    outcome = told["outcomes"][0]
    found: dict[str, Any] = {
        "study_instance_uid": told["study_instance_uid"],
        "package": f"{outcome['package']}@{outcome['version']}",
        "outcome": outcome["outcome"],
        "reason": outcome["reason"],
        "instances": told["instances"],
        "engine": outcome.get("engine", ""),
        "results": [],
        "findings": outcome["findings"],
        "picture": None,
        "timings": outcome["timings"],
    }
    for result in outcome["results"]:
        held = folder / "pacs" / f"{result['sop_instance_uid']}.dcm"
        found["results"].append({**result, "path": str(held)})
    if found["results"]:
        found |= _look(found, settings, folder, files, sample=sample)
    return found


def _look(
    found: dict[str, Any], settings: Settings, folder: Path, files: Sequence[Path], *, sample: bool
) -> dict[str, Any]:
    """Read the SEG back from the PACS, draw it, and compare it with the template where that was the study."""
    import numpy as np

    from appliance.catalogue import open_catalogue
    from appliance.cli.picture import Legend, save_picture
    from dicom_nodes.segmentation_reader import read_segmentation, tracked_segments
    from dicom_nodes.volume_reader import read_volume
    from models.registry import Registry

    segmentation = next((Path(r["path"]) for r in found["results"] if r["role"] == "SEG"), None)
    if segmentation is None:
        return {}  # nothing was found: the SR alone says so
    volume = read_volume(_of_series(files, segmentation))
    label_map = read_segmentation(segmentation, volume)
    catalogue = open_catalogue(settings.catalogue_url, settings.data_dir)
    package = Registry(settings, catalogue).package(settings.routes[0].package)
    catalogue.close()
    colours = {s.number: s.rgb for s in getattr(package.manifest.outputs, "segments", ())}
    by_tracking = {f["tracking_uid"]: f for f in found["findings"]}
    legend, originals = [], np.zeros(256, np.uint8)
    for number, tracking_uid in tracked_segments(segmentation).items():
        finding = by_tracking[tracking_uid]
        originals[number] = finding["segment"]
        text = f"{finding['name']} {finding['measurements'][0]['value']:.1f} ml"
        legend.append(Legend(number, text, colours[finding["segment"]]))
    picture = folder / "segmentation.png"
    save_picture(picture, volume, label_map, legend, f"{found['package']}: {package.manifest.title}")
    more: dict[str, Any] = {"picture": str(picture)}
    if sample:
        more["agreement"] = _agreement(originals[label_map])
    return more


def _of_series(files: Sequence[Path], segmentation: Path) -> list[Path]:
    from dicom_nodes.header import read_header

    series = str(read_header(segmentation).ReferencedSeriesSequence[0].SeriesInstanceUID)
    return [file for file in files if str(read_header(file).get("SeriesInstanceUID")) == series]


def _agreement(label_map: Any) -> dict[str, float]:
    """Return Dice with the template's own tissue maps (> 0.5), outside our cerebellum and brain stem."""
    from dicom_nodes.sample import template_axial

    counted = (label_map != 4) & (label_map != 7)
    tissues = {"white_matter": ("wm", (2,)), "grey_matter": ("gm", (1, 5, 6))}
    agreement = {}
    for name, (kind, numbers) in tissues.items():
        truth = (template_axial(kind)[0] > 0.5) & counted
        ours = counted & sum(label_map == n for n in numbers).astype(bool)
        agreement[name] = round(float(2 * (truth & ours).sum() / (truth.sum() + ours.sum())), 4)
    return agreement


def _print(told: dict[str, Any], folder: Path) -> None:
    console.print(f"\n{told['instances']} images, {told['package']}: [bold]{told['outcome']}[/] {told['reason']}")
    timings = told["timings"]
    rows = [(name, f"{timings[key]:.2f} s", note) for key, name, note in STEPS if key in timings]
    print_table(("step", "time", ""), rows)
    console.print()
    measured = [(f["name"], f"{m['value']:.1f} {m['unit']}") for f in told["findings"] for m in f["measurements"]]
    if measured:
        print_table(("finding", "volume"), measured)
        console.print()
    for result in told["results"]:
        console.print(f"{result['role']:4} {result['state']:10} {result['path']}")
    if "agreement" in told:
        text = ", ".join(f"{k.replace('_', ' ')} {v:.3f}" for k, v in told["agreement"].items())
        console.print(f"agreement with the template's own maps (Dice): {text}")
    if told["picture"]:
        console.print(f"picture {told['picture']}")
    console.print(f"engine {told['engine'] or 'none'}, {told['total_s']:.1f} s in all; everything is in {folder}")
