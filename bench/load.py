"""A hospital's busiest hours for twenty real minutes, each process killed in turn: is every result there, once?

Scanners send the profile of bench.hospital_day to one appliance; a threshold package reads every study (X-ray and
ultrasound end with a report that says why they cannot be read), a package that ships a tenth of them. In the first
half each process is killed once by SIGKILL and the broker emptied; the second half shows whether memory and file
descriptors stay flat. `python -m bench.load [MINUTES]` shortens both time and studies, for a trial.
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from sqlalchemy import func, select

from appliance.catalogue import Catalogue, overview
from appliance.catalogue.tables import instance, job, result
from bench.consortium import wait_for
from bench.curie_receiver import catalogue_in
from bench.hospital_day import KINDS, MINUTES, Kind, Planned, plan
from bench.load_house import SHIPPED, VICTIMS, Watch, install, settings_text, strike, threshold_name
from bench.one_house import Appliance, Orthanc
from bench.pdus import Broken
from bench.receivers import free_port, is_alone
from bench.record import OUT, Record

SAMPLE_S = 5.0
FIRST_KILL, LAST_KILL = 0.04, 0.5  # shares of the whole time
EARLY, LATE = (0.6, 0.8), (0.8, 1.0)
END_S = 900.0  # for what still runs when the last image came
Told = list[dict[str, Any]]
PERCENTILES = (50, 95, 99)


def percentile(values: Sequence[float], wanted: int) -> float:
    """Return a percentile, the nearest value at or above."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, len(ordered) * wanted // 100)]


def asked(studies: Sequence[Planned]) -> set[tuple[str, str]]:
    """Return each study with each package that has to answer for it."""
    found = {(one.study_instance_uid, threshold_name(one.kind.modality)) for one in studies}
    real = {(one.study_instance_uid, SHIPPED[one.kind.modality][0]) for one in studies if one.real}
    return found | real


def strike_in_turn(appliance: Appliance, seconds: float, rows: Told) -> None:
    """Kill one part after another in the first half of the time."""
    began, step = time.monotonic(), (LAST_KILL - FIRST_KILL) / (len(VICTIMS) - 1)
    for number, victim in enumerate(VICTIMS):
        time.sleep(max(0.0, began + seconds * (FIRST_KILL + number * step) - time.monotonic()))
        rows.append({"case": "kill", "at_s": round(time.monotonic() - began), "what": strike(appliance, victim)})
        print(f"{rows[-1]['at_s']:5} s  {rows[-1]['what']}", flush=True)


def under_load(appliance: Appliance, kinds: Sequence[Kind], seconds: float, rows: Told) -> tuple[Told, Watch]:
    """Send everything while parts are killed; returns what the scanners say of each study, and the samples."""
    share = kinds[0].studies / KINDS[0].studies
    words = [sys.executable, "-m", "bench.load_senders", str(appliance.port), str(seconds), str(share)]
    watch = Watch(appliance, SAMPLE_S)
    watching = threading.Thread(target=watch.run)
    killer = ThreadPoolExecutor(1).submit(strike_in_turn, appliance, seconds, rows)
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as scanners:
        watching.start()
        assert scanners.stdout is not None
        told = [json.loads(line) for line in scanners.stdout]
    watch.over.set()
    watching.join()
    killer.result()
    if scanners.returncode != 0 or len(told) != sum(kind.studies for kind in kinds):
        raise Broken(f"the scanners told of {len(told)} studies, exit code {scanners.returncode}")
    return told, watch


def finished(catalogue: Catalogue, count: int) -> bool:
    """Return whether as many jobs have ended as are expected, none being under way."""
    with catalogue.read() as connection:
        states = dict(connection.execute(select(job.c.state, func.count()).group_by(job.c.state)).all())
    return sum(states.values()) >= count and not {"queued", "running", "delivering"} & states.keys()


def counted(catalogue: Catalogue, pacs: Orthanc, studies: Sequence[Planned], told: Told) -> dict[str, Any]:
    """Return what is missing and what is there twice: images in the catalogue, jobs, and result sets in the PACS."""
    with catalogue.read() as connection:
        jobs = connection.execute(select(job.c.id, job.c.study_instance_uid, job.c.package, job.c.state)).all()
        owners = dict(connection.execute(select(result.c.sop_instance_uid, result.c.job_id)).all())
        roles = dict(connection.execute(select(result.c.sop_instance_uid, result.c.role)).all())
        images = select(instance.c.sop_instance_uid).where(instance.c.state == "current")
        received = list(connection.execute(images).scalars())
    there = [str(one["MainDicomTags"]["SOPInstanceUID"]) for one in pacs.get("/instances?expand")]
    reports = Counter(owners.get(uid, "") for uid in there if roles.get(uid, "SR") == "SR")
    sets = Counter[tuple[str, str]]()
    for one in jobs:
        if one.state == "completed":
            sets[(one.study_instance_uid, one.package)] += reports[one.id]
    wanted = asked(studies)
    sent = {uid for one in studies for uid in one.sop_instance_uids}
    return {
        "studies": len(studies),
        "result_sets_wanted": len(wanted),
        "result_sets": sum(sets.values()),
        "objects_in_pacs": len(there),
        "objects_of_ours": len(owners),
        "jobs": dict(Counter(one.state for one in jobs)),
        "images_acknowledged": sum(one["images"] for one in told),
        "images_in_catalogue": len(received),
        "lost": len(wanted - {one for one, number in sets.items() if number})
        + len(owners.keys() - set(there))
        + len(sent - set(received)),
        "duplicates": sum(number - 1 for number in sets.values() if number > 1)
        + len([one for one in sets if one not in wanted])
        + len([uid for uid in there if uid not in owners])
        + (len(there) - len(set(there)))
        + (len(received) - len(sent & set(received))),
    }


def turnarounds(catalogue: Catalogue, studies: Sequence[Planned]) -> dict[str, list[float]]:
    """Return the seconds from a study's last image to its results in the PACS, by kind and package."""
    found: dict[str, list[float]] = {}
    with catalogue.read() as connection:
        for one in studies:
            for outcome in overview.explain(connection, one.study_instance_uid)["outcomes"]:
                seconds = outcome.get("timings", {}).get("total_s")
                if seconds is not None:
                    found.setdefault(f"{one.kind.name}, {outcome['package'].split('@')[0]}", []).append(seconds)
    return found


def flatness(watch: Watch, seconds: float) -> Told:
    """Return for each part the least memory and descriptors of the two windows of the second half.

    The least is what it holds at rest: a leak raises it, and which study was read just then does not.
    """
    rows = []
    for name in watch.names():
        row: dict[str, Any] = {"case": "flat", "part": name}
        for window, (low, high) in (("early", EARLY), ("late", LATE)):
            if held := watch.between(name, low * seconds, high * seconds):
                row[f"{window}_mb"] = round(min(mb for mb, _ in held), 1)
                row[f"{window}_descriptors"] = min(fds for _, fds in held)
        rows.append(row)
    return rows


def by_minute(watch: Watch, seconds: float) -> Told:
    """Return least, middle and most memory of each part in each minute."""
    rows = []
    for name in watch.names():
        for start in range(0, round(seconds), 60):
            if held := [mb for mb, _ in watch.between(name, start, start + 60)]:
                figures = (round(one, 1) for one in (min(held), statistics.median(held), max(held)))
                rows.append({"case": "held", "part": name, "minute": start // 60, "mb": [*figures]})
    return rows


def drift(rows: Told, what: str) -> float:
    """Return by which share the sum over all parts has grown from the early window to the late one."""
    both = [row for row in rows if f"early_{what}" in row and f"late_{what}" in row]
    before, after = (sum(row[f"{window}_{what}"] for row in both) for window in ("early", "late"))
    return float(after / before - 1)


def figures(record: Record, told: Told, turned: dict[str, list[float]]) -> None:
    """Put percentiles of acknowledgement and turnaround into the record."""
    by_kind: dict[str, list[float]] = {}
    for one in told:
        by_kind.setdefault(one["kind"], []).extend(one["latencies_ms"])
    everything = {"all": [ms for kind in by_kind.values() for ms in kind]}
    for name, values in (by_kind | everything).items():
        told_of = {f"p{wanted}_ms": round(percentile(values, wanted), 1) for wanted in PERCENTILES}
        record.rows.append({"case": "acknowledged", "kind": name, "n": len(values), **told_of, "max_ms": max(values)})
    for name, values in sorted((turned | {"all": [s for one in turned.values() for s in one]}).items()):
        told_of = {f"p{wanted}_s": round(percentile(values, wanted), 1) for wanted in PERCENTILES}
        record.rows.append({"case": "turned around", "kind": name, "n": len(values), **told_of, "max_s": max(values)})
    for wanted in PERCENTILES:
        record.ratio(f"ack_p{wanted}_ms", [percentile(everything["all"], wanted)])
        record.ratio(f"turnaround_p{wanted}_s", [percentile([s for one in turned.values() for s in one], wanted)])


def main() -> int:
    """Run the load; returns 1 where something was lost or doubled."""
    if not is_alone():
        sys.exit("Orthanc listens on all addresses: run it in a network of its own (make bench-load)")
    minutes = float(sys.argv[1]) if len(sys.argv) > 1 else float(MINUTES)
    kinds = [kind.scaled(minutes / MINUTES) for kind in KINDS]
    studies, seconds = plan(kinds, minutes * 60), minutes * 60
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    record = Record("load", ("pydicom", "pynetdicom", "highdicom", "openvino", "celery", "sqlalchemy"))
    with tempfile.TemporaryDirectory() as name:
        folder, port = Path(name), free_port()
        pacs = Orthanc(folder / "pacs", port)
        appliance = Appliance(folder / "curie", port, settings_text(port, free_port(), pacs.port))
        print("making packages", flush=True)
        install(appliance, folder / "packages")
        pacs.start()
        try:
            appliance.start()
            found = measured(record, appliance, pacs, studies, seconds)
            assert appliance.stop() == 0
        finally:
            if appliance.process and appliance.process.poll() is None:
                appliance.process.kill()
                (OUT / "load-up.log").write_bytes((appliance.folder / "up.log").read_bytes())
            pacs.stop()
    path = record.write()
    for key, ratio in record.ratios.items():
        print(f"{key:24} {ratio['median']}")
    print(f"load {record.load_before:.1f} before, {os.getloadavg()[0]:.1f} after; {path}")
    return 1 if found["lost"] or found["duplicates"] else 0


def measured(
    record: Record, appliance: Appliance, pacs: Orthanc, studies: Sequence[Planned], seconds: float
) -> dict[str, Any]:
    """Put the load on a running house, wait for its end, and fill the record."""
    kinds = {one.kind.name: one.kind for one in studies}
    ordered = [kinds[kind.name] for kind in KINDS]
    print(
        f"{len(studies)} studies, {sum(one.kind.images for one in studies)} images, {seconds / 60:g} minutes",
        flush=True,
    )
    told, watch = under_load(appliance, ordered, seconds, record.rows)
    with catalogue_in(appliance.folder) as catalogue:
        wait_for("the last results", lambda: finished(catalogue, len(asked(studies))), END_S, 2.0)
        time.sleep(SAMPLE_S)
        found = counted(catalogue, pacs, studies, told)
        turned = turnarounds(catalogue, studies)
        left = sum(file.stat().st_size for file in (appliance.folder / "data" / "spool").rglob("*.dcm"))
    found |= {"gb_sent": round(sum(one["bytes"] for one in told) / 1e9, 2), "gb_left_in_spool": round(left / 1e9, 2)}
    found |= {"sent_again": sum(one["tries"] - 1 for one in told), "late_s": max(one["late_s"] for one in told)}
    record.rows.append({"case": "counted", **found})
    print(json.dumps(found, indent=1), flush=True)
    figures(record, told, turned)
    flat = flatness(watch, seconds)
    record.rows += [*flat, *by_minute(watch, seconds)]
    record.rows.append({"case": "audit", **appliance.json("audit", "verify")})
    for key in ("lost", "duplicates"):
        record.ratio(key, [found[key]])
    record.ratio("rss_drift", [drift(flat, "mb")])
    record.ratio("descriptor_drift", [drift(flat, "descriptors")])
    return found


if __name__ == "__main__":
    sys.exit(main())
