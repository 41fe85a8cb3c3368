"""The appliance under load: its packages and settings, what is killed in it, and how much memory and files it holds."""

from __future__ import annotations

import logging
import threading
import time
import warnings
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import redis
import torch
from torch import nn

from appliance.catalogue import processes
from appliance.catalogue.connection import now
from bench.consortium import wait_for
from bench.curie_receiver import catalogue_in
from bench.hospital_day import KINDS
from bench.one_house import Appliance
from models.declaration import Declaration
from models.graph_packaging import write_graph_package
from models.made_up import golden_image
from models.packaging import write_graph
from models.starter import Wanted, starter

ROI = (64, 64, 64)
COARSE_MM = 4.0  # the threshold package's grid
DENSE = {"category": {"value": "91723000", "meaning": "Anatomical Structure"}} | {
    "type": {"value": "87784001", "meaning": "Soft tissue"}
}
SHIPPED = {"CT": ("lung-nodule", "CHEST"), "MR": ("brain-structures", "BRAIN")}  # which, and for which region
KEEP_DAYS = 4 / 24 / 60  # four minutes, so that images go while others come
HOUSE = """
[appliance]
name = "st-elsewhere"
uid = "2.25.1914"
data_dir = "data"
[spool]
reserve_gb = 0.5
keep_days = {keep_days}
[receiver]
host = "127.0.0.1"
port = {port}
[models]
allow_unsigned = true
[console]
port = {console}
[[sources]]
ae_title = "SCANNER"
hosts = ["127.0.0.0/8"]
[[destinations]]
name = "pacs"
ae_title = "ORTHANC"
host = "127.0.0.1"
port = {pacs}
"""
ROUTE = """
[[routes]]
name = "{name}"
package = "{package}"
destinations = ["pacs"]
match = {{ {match} }}
report_failure = true
"""


def settings_text(port: int, console: int, pacs: int) -> str:
    """Return curie.toml: a threshold package for each modality, and one that ships for some CT and MR."""
    text = HOUSE.format(port=port, console=console, pacs=pacs, keep_days=KEEP_DAYS)
    for modality in modalities():
        match = f'Modality = "{modality}"'
        text += ROUTE.format(name=modality.lower(), package=threshold_name(modality), match=match)
        if modality in SHIPPED:
            package, region = SHIPPED[modality]
            match += f', BodyPartExamined = "{region}"'
            text += ROUTE.format(name=package, package=package, match=match)
    return text


def modalities() -> list[str]:
    """Return each modality of the profile once."""
    return list(dict.fromkeys(kind.modality for kind in KINDS))


def threshold_name(modality: str) -> str:
    """Return the name of the package that reads a modality."""
    return f"threshold-{modality.lower()}"


def write_threshold(modality: str, folder: Path) -> Path:
    """Write a package whose network is one comparison: a voxel above the threshold is dense."""
    wanted = Wanted("onnx", threshold_name(modality), "CT", ("dense",), roi=ROI, codes={"dense": DENSE})
    declared = starter(wanted)
    (need,) = (one["requirement"] for one in declared["inputs"])
    need |= {"modality": modality}
    need |= {"sop_class_uids": sorted({kind.sop_class_uid for kind in KINDS if kind.modality == modality})}
    declared["preprocess"].insert(1, {"op": "resample", "spacing_mm": [COARSE_MM] * 3})
    if modality == "MR":
        declared["preprocess"][-1] = {"op": "zscore", "nonzero": True}
    network = nn.Conv3d(1, 2, 1)
    with torch.no_grad():
        network.weight[:] = torch.tensor([0.0, 20.0]).view(2, 1, 1, 1, 1)
        network.bias[:] = torch.tensor([0.0, -10.0])  # type: ignore[index]
    folder.mkdir(parents=True)
    logging.disable(logging.WARNING)  # of the exporter, here and below
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        write_graph(network.eval(), (1, *ROI), folder / "exported.onnx")
        image = golden_image(Declaration.model_validate(declared))
        write_graph_package(folder / "exported.onnx", declared, [image], "# threshold\n", folder / "package")
    return folder / "package"


def install(appliance: Appliance, folder: Path) -> None:
    """Install and promote the threshold packages; those that ship are there."""
    said = "--by", "bench", "--reason", "a package of the load"
    for modality in modalities():
        appliance.json("models", "install", str(write_threshold(modality, folder / modality)))
        appliance.json("models", "promote", f"{threshold_name(modality)}@0.1.0", *said)


def parts(appliance: Appliance) -> dict[str, psutil.Process]:
    """Return the living processes of the appliance by name: up, receiver, receiver-indexer, worker-1, its engine …"""
    assert appliance.process is not None
    with catalogue_in(appliance.folder) as catalogue, catalogue.read() as connection:
        pids = {str(row["name"]): int(row["pid"]) for row in processes.listing(connection, now())}
    found = {}
    for name, pid in ({"up": appliance.process.pid} | pids).items():
        with suppress(psutil.Error):
            found[name] = psutil.Process(pid)
            if name.startswith("worker"):
                children = found[name].children()  # others are small, and read a suspicious image
                if children:
                    found[f"engine of {name}"] = max(children, key=lambda one: one.memory_info().rss)
    return found


@dataclass
class Watch:
    """Samples memory and file descriptors of each part, in a thread of its own."""

    appliance: Appliance
    every_s: float
    began: float = field(default_factory=time.monotonic)
    rows: list[tuple[float, str, float, int]] = field(default_factory=list)  # (seconds, part, RSS in MB, descriptors)
    over: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        """Sample until told that it is over."""
        while not self.over.wait(self.every_s):
            at = time.monotonic() - self.began
            for name, one in parts(self.appliance).items():
                with suppress(psutil.Error):
                    self.rows.append((at, name, one.memory_info().rss / 1e6, one.num_fds()))

    def names(self) -> list[str]:
        """Return the parts that were seen."""
        return sorted({name for _, name, _, _ in self.rows})

    def between(self, name: str, low: float, high: float) -> list[tuple[float, int]]:
        """Return (RSS in MB, descriptors) of a part between two times in seconds."""
        return [(mb, fds) for at, part, mb, fds in self.rows if part == name and low <= at < high]


FLUSH = "flush"  # stands among the victims for emptying the broker
RETURN_S = 30.0  # until a part that is to be killed is there
VICTIMS = (
    "receiver", "receiver-1", "receiver-indexer", "worker-1", "engine of worker-1", "dispatch", "delivery", "broker",
    "console", FLUSH, "up",
)  # fmt: skip


def strike(appliance: Appliance, victim: str) -> str:
    """Kill a part by SIGKILL, or empty the broker; returns what was done."""
    if victim == FLUSH:
        from appliance.settings import load
        from workers.celery_app import embedded_socket

        with redis.Redis(unix_socket_path=str(embedded_socket(load(appliance.file).data_dir))) as broker:
            broker.flushall()
        return "the broker was emptied"
    wait_for(victim, lambda: parts(appliance).get(victim), RETURN_S).kill()
    if victim == "up":
        assert appliance.process is not None
        appliance.process.wait()
        appliance.start()  # as systemd would
    return f"{victim} killed"
