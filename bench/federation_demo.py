"""The whole loop on one machine: four hospitals learn together, and what they learned reaches a radiologist's study.

    python -m bench.federation_demo [--out FOLDER] [--made-up] [--seed 1]

A coordinator and four sites, each a process with settings, catalogue and certificates of its own; they share nothing
but mTLS. `north` is a whole appliance with a small PACS. Cases come in by `label-import`, studies by C-STORE, and a
person promotes by command. What each hospital would have learned alone, and what all images in one place would have
taught, is trained beside it with as many steps; a pooled step sees as many images as one at each hospital together.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import nibabel
import numpy as np

from appliance.cli.demo import send, small_pacs
from appliance.cli.output import console
from appliance.settings import load
from bench.consortium import Consortium, Party, radiology_settings, wait_for
from bench.federation_curves import MADE_UP, PUBLIC, Shape, baseline, federated_curve
from bench.federation_figures import Curves, draw, table
from bench.federation_study import ARCHITECTURE, PLAN, RULES, WINDOW, weak_start
from bench.hospitals import EARLIER, SCANNERS, Crop, Deal, as_seen, crops_of, deal, unpacked
from bench.record import Record
from dicom_nodes.sample import write_series
from models.package import sign_package
from models.packaging import write_package
from models.signing import make_key, read_private_key
from models.zoo.hippocampus import phantom
from models.zoo.hippocampus_package import declaration

PACKAGE, START, CANDIDATE = "hippocampus", "0.3.0", "0.3.1"
SHADOWED = 3  # studies that a candidate reads unseen; the last of LATER is read by it alone
BRIGHTEST = 1000  # of the images that hospitals have
LIMIT_S = 900
AXIAL = np.array([[0, 0, 1.0, 0], [0, 1.0, 0, 0], [1.0, 0, 0, 0], [0, 0, 0, 1.0]])  # (k, j, i, 1) → LPS, 1 mm
CARD = "# hippocampus, weak start\n\nTrained on a few crops for a minute, to be taught by federated rounds.\n"


def main() -> None:
    """Run the demo; exit code 1 where the candidate was not promoted."""
    parser = argparse.ArgumentParser(prog="python -m bench.federation_demo")
    parser.add_argument("--out", type=Path, default=Path("demo-out/federation"), help="emptied first")
    parser.add_argument("--made-up", action="store_true", help="made-up crops, also where the public ones are there")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("told to stop"))  # so that all processes are ended
    folder = given.out.absolute()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    shared = Path(os.environ.get("CURIE_SHARED", "../shared"))
    crops = None if given.made_up else unpacked(shared, folder / "crops")
    demo = Demo(folder, crops_of(crops), given.seed, PUBLIC if crops else MADE_UP)
    sys.exit(0 if demo.run() else 1)


@dataclass
class Demo:
    """One run."""

    folder: Path
    crops: list[Crop]
    seed: int
    shape: Shape
    began: float = field(default_factory=time.monotonic)

    @property
    def dealt(self) -> Deal:
        """Who has which crop."""
        return deal(len(self.crops), self.seed)

    def run(self) -> bool:
        """Return whether the candidate was promoted, and read a study."""
        kind = "public" if self.shape is PUBLIC else "made-up"
        record = Record("federation-demo", ("nvflare", "torch", "monai", "opacus"), patience_s=0)
        self.say(f"{len(self.crops)} {kind} crops, {self.shape.rounds} rounds of {self.shape.steps} steps a site")
        start = self._start()
        house = self._house(start)
        sites = {site.name: site.file for site in house.sites}
        with ExitStack() as stack:
            pool = stack.enter_context(ProcessPoolExecutor(2, get_context("spawn"), os.nice, (19,)))
            pooled = pool.submit(baseline, [*sites.values()], [*sites.values()], start, self.shape)
            alone = {
                name: pool.submit(baseline, [one], [*sites.values()], start, self.shape) for name, one in sites.items()
            }
            stack.enter_context(self._running(house))
            self._rounds(house)
            promoted = self._to_promotion(house)
            self.say("waiting for who learns alone, and from all images in one place")
            curves = Curves(
                federated_curve(house.central.file, [*sites.values()], start),
                pooled.result(), {name: one.result() for name, one in alone.items()},
            )  # fmt: skip
        return self._close(curves, house, record, promoted)

    def say(self, text: str) -> None:
        """Print a line with the time it came."""
        print(f"{time.monotonic() - self.began:5.0f} s  {text}", flush=True)

    # --- before ---

    def _start(self) -> Path:
        """Write and sign the package that all begin from."""
        self.say(f"a weak start: trained on {EARLIER} crops that no hospital has")
        network = weak_start([self.crops[one] for one in self.dealt.earlier], self.seed, self.shape.start_steps)
        declared = declaration(START, ARCHITECTURE, WINDOW)
        del declared["locator"]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the exporter
            write_package(network, declared, [golden()], CARD, self.folder / "start")
        make_key(self.folder / "start-key")
        sign_package(self.folder / "start", read_private_key(self.folder / "start-key"))
        return self.folder / "start"

    def _house(self, start: Path) -> Consortium:
        """Return coordinator and hospitals, joined, with package and cases."""
        self.say("four hospitals join, take the package and import their labels")
        names = [one.name for one in SCANNERS]
        central = {
            "min_sites": 3, "rounds": self.shape.rounds, "steps": self.shape.steps, "straggler_s": 120,
            "round_timeout_s": 600, "clip_norm": RULES.clip_norm, "learning_rate": PLAN.learning_rate,
            "batch": PLAN.batch, "proximal": PLAN.proximal,
            "aggregation": RULES.aggregation, "momentum": RULES.momentum,
        }  # fmt: skip
        house = Consortium(
            self.folder, PACKAGE, names, coordinator=central,
            federation={"min_new_cases": 5, "shadow_studies": SHADOWED},
            trusted=[str(self.folder / "start-key.pub")],
        )  # fmt: skip
        north = house.sites[0]
        north.words = ("up",)
        north.file.write_text(north.file.read_text() + radiology_settings("hippocampus-mr", PACKAGE, "MR"))
        house.invite_all()
        with ThreadPoolExecutor(2) as two:
            list(two.map(lambda party: take_package(party, start), (house.central, *house.sites)))
            list(two.map(self._import, house.sites))
        return house

    def _import(self, site: Party) -> None:
        """Give a hospital its labelled cases, as its scanner sees them."""
        scanner = next(one for one in SCANNERS if one.name == site.name)
        for number in self.dealt.sites[site.name]:
            write_pair(site.folder / "labelled", number, as_seen(self.crops[number], scanner, number))
        words = ("--map", "1=1,2=2", "--author", "Decathlon", "--scanner", f"{scanner.name} 1")
        said = done(site, "federation", "label-import", PACKAGE, str(site.folder / "labelled"), *words)
        self.say(f"{scanner.name}: {said.strip().splitlines()[-1]}")

    @contextmanager
    def _running(self, house: Consortium) -> Iterator[None]:
        """Run all processes, and a small PACS beside `north`."""
        with small_pacs(self.folder / "pacs", load(house.sites[0].file)):
            house.start()
            try:
                yield
            finally:
                house.stop()
                house.door.close()

    # --- the way of the weights ---

    def _rounds(self, house: Consortium) -> None:
        """Hold the rounds, and tell each as it ends."""
        house.coordinate()
        self.say("`curie federation coordinate`")
        told = 0

        def over() -> bool:
            nonlocal told
            for cycle in house.cycles()[-1:]:
                for one in cycle["rounds"][told + 1 :]:
                    told = one["round"]
                    self.say(f"round {told}: {', '.join(one['sites'])} counted{named(one)}; {one['seconds']:.0f} s")
                return str(cycle["state"]) != "running"
            return False

        wait_for("the rounds", over, LIMIT_S, every_s=2)
        cycle = house.cycles()[-1]
        self.say(f"the coordinator {cycle['state']} {PACKAGE}@{cycle['candidate']}{cycle['why']}")

    def _to_promotion(self, house: Consortium) -> bool:
        """Bring the candidate through gate and shadow to promotion at `north`; returns whether it read a study then."""
        for site in house.sites:
            one = wait_for("the candidate's trial", lambda s=site: candidate(s), LIMIT_S, every_s=2)
            self.say(f"{site.name}: {one['state']}, {one['reason']}")
        north = house.sites[0]
        for number in self.dealt.later[:SHADOWED]:
            self._study(north, number)
        self.say(f"{SHADOWED} new patients at north; the candidate reads them beside the active version, unseen")
        one = wait_for("the end of shadow", lambda: candidate(north, but=("shadow",)), LIMIT_S, every_s=2)
        self.say(f"north: {one['state']}, {one['reason']}")
        if one["state"] != "ready":
            return False
        reason = "no worse on held-back cases, agrees in shadow"
        done(north, "models", "promote", f"{PACKAGE}@{CANDIDATE}", "--by", "Marie", "--reason", reason)
        self.say("a person promotes it: `curie models promote`")
        study = self._study(north, self.dealt.later[-1])
        outcome = wait_for("the next study", lambda: delivered(north, study), LIMIT_S, every_s=2)
        self.say(f"the next patient is read by {outcome['package']}@{outcome['version']}: {outcome['outcome']}")
        console.print(done(north, "federation", "status"), markup=False)
        return bool(outcome["version"] == CANDIDATE)

    def _study(self, north: Party, number: int) -> str:
        """Send a crop as a new patient's MR study; returns its UID."""
        image, _ = as_seen(self.crops[number], SCANNERS[0], number)
        voxels = np.ascontiguousarray(image[0].numpy().transpose(2, 1, 0)[:, ::-1, ::-1])  # feet to head, LPS
        told = {"PatientID": f"LATER-{number}", "PatientName": f"Later^{number}", "Manufacturer": "north",
                "StudyDescription": "hippocampus", "SeriesDescription": "T1 crop"}  # fmt: skip
        folder = self.folder / "later" / str(number)
        return send(write_series(folder, voxels, AXIAL, f"later {number}", **told), load(north.file))

    # --- afterwards ---

    def _close(self, curves: Curves, house: Consortium, record: Record, promoted: bool) -> bool:
        """Write picture and record, and print what came of it."""
        picture = self.folder / "dice.png"
        draw(curves, {site.name: cases_at(site) for site in house.sites}, picture)
        print(f"\n{table(curves)}\n")
        for name, line in {"federated": curves.federated, "pooled": curves.pooled, **curves.alone}.items():
            record.rows += [{"subject": name, "round": number, "dice": one} for number, one in enumerate(line)]
        record.rows.append({"subject": "alone at home", "dice": {"mean": curves.at_home}})
        record.rows.append({"subject": "candidate", "promoted": promoted, "public": self.shape is PUBLIC})
        total = time.monotonic() - self.began
        for name, value in (curves.ratios() | {"total_s": total}).items():
            record.ratio(name, [value])
            print(f"{name:32}{value:8.3f}")
        print(f"picture {picture}\nrecord  {record.write()}")
        return promoted


def golden() -> np.ndarray:
    """Return a made-up window for the package's golden case."""
    x, y, z = WINDOW
    return phantom()[0].numpy()[:, :x, :y, :z]


def take_package(party: Party, package: Path) -> None:
    """Install and promote the weak start, by command."""
    done(party, "models", "install", str(package))
    done(party, "models", "promote", f"{PACKAGE}@{START}", "--by", "Marie", "--reason", "the start")


def done(party: Party, *words: str) -> str:
    """Run a command and return what it printed."""
    ran = party.run(*words)
    assert ran.returncode == 0, (words, ran.stderr)
    return ran.stdout


def write_pair(folder: Path, number: int, crop: Crop) -> None:
    """Write image and labels of a crop as NIfTI files of the same name."""
    image, labels = (one.squeeze(0) if one.ndim == 4 else one for one in crop)
    arrays = {"images": (image * BRIGHTEST).numpy().astype(np.int16), "labels": labels.numpy().astype(np.uint8)}
    for part, array in arrays.items():
        (folder / part).mkdir(parents=True, exist_ok=True)
        nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), folder / part / f"crop-{number:03}.nii.gz")


def candidate(site: Party, but: tuple[str, ...] = ()) -> dict[str, Any] | None:
    """Return the candidate at a site, unless its state is one of `but`."""
    told = json.loads(site.run("federation", "status", "--json").stdout)["candidates"]
    found: list[dict[str, Any]] = [one for one in told if one["version"] == CANDIDATE and one["state"] not in but]
    return found[0] if found else None


def cases_at(site: Party) -> int:
    """Return how many cases a site trains on."""
    told = json.loads(site.run("federation", "data", "--json").stdout)["cases"]
    return sum(one["for_training"] for one in told)


def delivered(north: Party, study: str) -> dict[str, Any] | None:
    """Return the outcome of a study once its results are in the PACS."""
    ran = north.run("explain", study, "--json")
    told = json.loads(ran.stdout)["outcomes"] if ran.returncode == 0 else []
    found: list[dict[str, Any]] = [one for one in told if one["package"] == PACKAGE and one["outcome"] != "pending"]
    return found[0] if found else None


def named(one: dict[str, Any]) -> str:
    """Return who did not count in a round, and why."""
    absent = {**one["refused"], **one["abstained"], **dict.fromkeys(one["silent"], "not heard")}
    return "".join(f"; {site}: {why}" for site, why in absent.items())


if __name__ == "__main__":
    main()
