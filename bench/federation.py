"""Our federated rounds against stock NVFLARE's FedAvg: the same network, cases, training and mTLS, two sites each.

One interleaved run, the order drawn anew in each repetition. A round is the time between two questions that arrive at
a site; its overhead is that time less what the slowest site trained, by the same function in both. The first round,
in which both load torch, is left out. Bytes are counted in front of one site, of all its connections.
`python -m bench.federation` measures recovery too: the coordinator is killed in the middle of a round.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import statistics
import tempfile
import threading
import time
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from appliance.federation_settings import Coordinator
from appliance.settings import load
from bench.bars import Bar, Row, keep
from bench.blocks import keep_blocks
from bench.consortium import Consortium, Party, wait_for
from bench.counting import CountingDoor
from bench.record import Record
from bench.stock_nvflare import SERVER, Stock, kill_all
from bench.wide_network import PACKAGE, cases, write_wide

RUNS = int(os.environ.get("CURIE_BENCH_RUNS", "3"))
ROUNDS, STEPS = 5, 2
SITES = ("site-1", "site-2")
COUNTED = SITES[1]  # its bytes
LOOK_S, LIMIT_S, LOST_S = 0.01, 240.0, 90.0
TIMED = Path(__file__).parent / "timed_site"
CURIE, NVFLARE = "curie", "nvflare"
ROUND, IDLE, RECOVERY = "round 20 MB", "idle site", "coordinator killed"
BARS = (
    Bar("bytes_vs_nvflare", "≤ 0.51", ROUND, "bytes_per_round_mb", CURIE, NVFLARE),
    Bar("overhead_vs_nvflare", "≤ 0.6", ROUND, "overhead_s", CURIE, NVFLARE),
    Bar("idle_mb", "≤ 110", IDLE, "pss_mb", CURIE),
    Bar("recovery_s", "≤ 60", RECOVERY, "recovery_s", CURIE),
)


class Watch:
    """Looks every 10 ms at what passed a door, and at when a file was last written."""

    def __init__(self, door: CountingDoor, files: Mapping[str, Path]) -> None:
        self.door, self.files = door, files
        self.at: list[float] = []
        self.passed: list[int] = []
        self.written: dict[str, list[float]] = {name: [] for name in files}
        self.over = threading.Event()
        threading.Thread(target=self._look, daemon=True).start()

    def _look(self) -> None:
        while not self.over.wait(LOOK_S):
            self.at.append(time.time())
            self.passed.append(self.door.up + self.door.down)
            for name, path in self.files.items():
                moment = written_at(path)
                if moment and moment not in self.written[name][-1:]:
                    self.written[name].append(moment)

    def bytes_until(self, moment: float) -> int:
        """Return the bytes that had passed at a moment."""
        return self.passed[max(0, bisect_right(self.at, moment) - 1)]


@dataclass
class Seen:
    """What was seen of one site: a moment, or the seconds, of each round."""

    asked: list[float]
    trained_s: list[float]
    answered: list[float] = field(default_factory=list)  # when its trainer was done, ours alone


def written_at(path: Path) -> float | None:
    """Return when a file was last written, None where there is none."""
    try:
        return path.stat().st_mtime_ns / 1e9
    except FileNotFoundError:
        return None


def marked(path: Path) -> dict[str, list[float]]:
    """Return the moments that a site noted, by name."""
    found: dict[str, list[float]] = {"asked": [], "begun": [], "trained": []}
    for line in path.read_text().splitlines():
        one = json.loads(line)
        found[one["what"]].append(one["at"])
    return found


def durations(marks: Mapping[str, Sequence[float]]) -> list[float]:
    """Return the seconds of each training."""
    return [end - begin for begin, end in zip(marks["begun"], marks["trained"], strict=True)]


def figures(seen: Mapping[str, Seen], watch: Watch) -> Row:
    """Return the medians over all rounds but the first, and all sites, of what a round took."""
    rounds = range(1, ROUNDS - 1)  # from a question to the next one
    trained = [max(one.trained_s[number] for one in seen.values()) for number in range(ROUNDS)]
    took = {number: [one.asked[number + 1] - one.asked[number] for one in seen.values()] for number in rounds}
    over = {number: [one - trained[number] for one in took[number]] for number in rounds}
    counted = seen[COUNTED].asked
    passed = [watch.bytes_until(counted[number + 1]) - watch.bytes_until(counted[number]) for number in rounds]
    row = {
        "bytes_per_round_mb": statistics.median(passed) / 1e6,
        "round_s": statistics.median(one for several in took.values() for one in several),
        "training_s": statistics.median(trained[number] for number in rounds),
        "overhead_s": statistics.median(one for several in over.values() for one in several),
    }
    if all(one.answered for one in seen.values()):
        row["without_trainer_s"] = statistics.median(without_trainer(seen, rounds))
    return {name: round(value, 3) for name, value in row.items()}


def without_trainer(seen: Mapping[str, Seen], rounds: Sequence[int]) -> list[float]:
    """Return each round less all that the slowest trainer did: reading, judging, training, encoding."""
    slowest = {number: max(one.answered[number] - one.asked[number] for one in seen.values()) for number in rounds}
    return [one.asked[number + 1] - one.asked[number] - slowest[number] for number in rounds for one in seen.values()]


# --- ours ---


def ours(folder: Path, package: Path) -> list[Row]:
    """Return the rows of our coordinator and sites."""
    central = {"min_sites": 2, "rounds": ROUNDS, "steps": STEPS}
    house = Consortium(folder, PACKAGE, SITES, coordinator=central, federation={"min_new_cases": 0})
    for party in (house.central, *house.sites):
        party.install(package)
    for site in house.sites:
        keep_blocks(load(site.file), PACKAGE, cases(site.name))
    house.invite_all()
    house.count_bytes_of(house.sites[1])
    watch = Watch(house.door, places(house.sites))
    try:
        house.central.start()
        for site in house.sites:
            site.start(PYTHONPATH=str(TIMED), CURIE_BENCH_MARKS=str(site.folder / "marks"))
        return [rounds_of_ours(house, watch), idle_of_ours(house), recovery_of_ours(house, watch)]
    finally:
        watch.over.set()
        below = [one for party in (house.central, *house.sites) for one in below_of(party)]
        house.stop()
        kill_all(below)
        house.door.close()


def places(sites: Sequence[Party]) -> dict[str, Path]:
    """Return the files whose times tell when a question came and when the trainer was done."""
    work = {site.name: site.data / "sidecar" / "work" for site in sites}
    asked = {name: folder / "request.bin" for name, folder in work.items()}
    return asked | {f"{name} answered": folder / "answer.bin" for name, folder in work.items()}


def below_of(party: Party) -> list[psutil.Process]:
    """Return all processes below a party that runs."""
    return party.children() if party.process is not None and party.process.poll() is None else []


def rounds_of_ours(house: Consortium, watch: Watch) -> Row:
    """Hold one cycle."""
    house.coordinate()
    cycle = house.ended(1, LIMIT_S)
    assert cycle["state"] == "published", cycle
    assert all(set(one["sites"]) == set(SITES) for one in cycle["rounds"][1:]), cycle
    seen = {}
    for site in house.sites:
        trained_s = durations(marked(site.folder / "marks"))
        seen[site.name] = Seen(watch.written[site.name], trained_s, watch.written[f"{site.name} answered"])
    return {"case": ROUND, **figures(seen, watch)}


def idle_of_ours(house: Consortium) -> Row:
    """Return what a site holds in memory once the job is over."""
    held = []
    for site in house.sites:
        wait_for("the job's end", lambda s=site: not s.children(), 60)
        assert site.process is not None
        held.append(memory_mb(site.process.pid))
    return {"case": IDLE, **{name: round(statistics.median(one[name] for one in held), 1) for name in held[0]}}


def memory_mb(number: int) -> dict[str, float]:
    """Return proportional and resident memory of a process."""
    rollup = Path(f"/proc/{number}/smaps_rollup").read_text()
    found = dict(re.findall(r"^(Pss|Rss):\s+(\d+)", rollup, re.MULTILINE))
    assert int(found["Pss"]), rollup
    return {"pss_mb": int(found["Pss"]) / 1024, "rss_mb": int(found["Rss"]) / 1024}


def recovery_of_ours(house: Consortium, watch: Watch) -> Row:
    """Kill the coordinator in a second cycle, while sites are at a round; return how long until a site is asked."""
    before = len(watch.written[SITES[0]])
    house.coordinate()
    wait_for("its second round", lambda: all(len(watch.written[site]) >= before + 2 for site in SITES), LIMIT_S, 0.02)
    killed_at, below = time.time(), house.central.children()
    house.central.kill()
    kill_all(below)
    house.central.start()
    again = {}
    for site in SITES:
        found = lambda s=site: [one for one in watch.written[s] if one > killed_at + 0.5]  # noqa: E731
        again[site] = wait_for(f"a question at {site}", found, LIMIT_S, 0.05)[0] - killed_at
    cycle = house.ended(2, LIMIT_S)
    assert cycle["state"] == "published", cycle
    return {"case": RECOVERY, "recovery_s": round(min(again.values()), 1), "last_site_s": round(max(again.values()), 1)}


# --- stock NVFLARE ---


def stock(folder: Path, *, killing: bool) -> list[Row]:
    """Return the rows of stock NVFLARE; `killing`: its server too is killed in the middle of a round."""
    subject = Stock(folder)
    watch = Watch(subject.door, {})
    try:
        subject.start()
        rows = [rounds_of_stock(subject, watch)]
        return [*rows, *([recovery_of_stock(subject)] if killing else [])]
    finally:
        watch.over.set()
        subject.stop()


def training() -> dict[str, Any]:
    """Return the executor's arguments: what our coordinator asks by default."""
    ours = Coordinator.model_fields
    return {"steps": STEPS, **{name: ours[name].default for name in ("batch", "learning_rate", "proximal")}}


def rounds_of_stock(subject: Stock, watch: Watch) -> Row:
    """Run one job."""
    ended = subject.submit(ROUNDS, training())
    wait_for("the job's end", ended, LIMIT_S)
    marks = {site: marked(subject.marks(site)) for site in SITES}
    assert all(len(one["trained"]) == ROUNDS for one in marks.values()), marks
    return {"case": ROUND, **figures({s: Seen(one["asked"], durations(one)) for s, one in marks.items()}, watch)}


def recovery_of_stock(subject: Stock) -> Row:
    """Kill the server in a second job, while sites are at a round; return how long until a site is asked again."""
    asked: Callable[[], list[float]] = lambda: [a for site in SITES for a in marked(subject.marks(site))["asked"]]  # noqa: E731
    before = len(asked())
    subject.submit(ROUNDS, training())
    wait_for("its second round", lambda: len(asked()) >= before + 4, LIMIT_S, 0.02)
    killed_at = time.time()
    subject.kill(SERVER)
    subject.start_server()
    try:
        again = wait_for("a question", lambda: [one for one in asked() if one > killed_at + 0.5], LOST_S, 0.1)
    except AssertionError:
        return {
            "case": RECOVERY,
            "recovery_s": None,
            "note": f"the job is lost: no site was asked within {LOST_S:.0f} s",
        }
    return {"case": RECOVERY, "recovery_s": round(again[0] - killed_at, 1)}


def measure(subject: str, run: int, package: Path) -> list[Row]:
    """Return the rows of one subject in one repetition."""
    folder = Path(tempfile.mkdtemp(prefix="curie-"))
    try:
        return ours(folder, package) if subject == CURIE else stock(folder / "stock", killing=run == 1)
    finally:
        if "CURIE_BENCH_KEEP" not in os.environ:
            shutil.rmtree(folder, ignore_errors=True)


def main() -> None:
    """Run the benchmark."""
    record = Record("federation", ("nvflare", "torch", "grpcio"), patience_s=0)
    with tempfile.TemporaryDirectory(prefix="curie-") as place:
        package = write_wide(Path(place) / PACKAGE)
        for run in range(1, RUNS + 1):
            for subject in random.Random(run).sample((CURIE, NVFLARE), 2):
                load = round(os.getloadavg()[0], 2)
                for row in measure(subject, run, package):
                    record.rows.append({"subject": subject, "run": run, **row, "load": load})
                    told = ", ".join(f"{name} {value}" for name, value in row.items() if name != "case")
                    print(f"{run} {subject:8} {row['case']:19} {told}", flush=True)
    keep(record, BARS, lambda bar: f"{bar.case} was not measured")
    print(f"load before {record.load_before:.1f}, quiet {record.quiet}; {record.write()}")


if __name__ == "__main__":
    main()
