"""Federated rounds over mTLS between real processes: of four hospitals one is hostile, one has nothing new, one dies.

One consortium for all of it; the tests run in order and build on each other.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
from sqlalchemy import delete, insert

from appliance.catalogue import events, open_catalogue
from appliance.catalogue.connection import now
from appliance.catalogue.tables import job
from appliance.settings import load
from bench.consortium import Consortium, Party, wait_for
from models.federation import from_bytes
from models.package import load_signed
from models.signing import Trust, key_id, read_public_key
from tests.acceptance.tiny import tiny_consortium

pytestmark = pytest.mark.acceptance
HOSTILE_PATH = Path(__file__).parent / "hostile_site"
ATTACKS = ("nan", "shape", "hundredfold", "replayed", "pickled", "oversized")
SAID = {
    "nan": "NaN",
    "shape": "shape",
    "hundredfold": "norm",
    "replayed": "another round",
    "pickled": "not safetensors",
    "oversized": "bytes",
}
IDLE_MB = 110
RESUMED_S = 60
BESIDE_BYTES, ASKING_BYTES_S = 200_000, 8_000  # of a site: TLS and the job once; asking for tasks all the time
figures: dict[str, Any] = {}


@pytest.fixture(scope="module")
def consortium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Consortium]:
    """A coordinator and four hospitals; the third wants more new cases than it has, the fourth is hostile."""
    central = {"min_sites": 2, "rounds": 5, "steps": 10}
    made = tiny_consortium(tmp_path_factory.mktemp("consortium"), 4, central, {"min_new_cases": 0})
    few = made.sites[2].file
    few.write_text(few.read_text().replace("min_new_cases = 0", "min_new_cases = 100"))
    made.sites[3].folder.joinpath("attacks").write_text("\n".join(ATTACKS))
    made.count_bytes_of(made.sites[1])
    for party in (made.central, *made.sites[:3]):
        party.start()
    start_hostile(made.sites[3])
    try:
        yield made
    finally:
        made.stop()
        made.door.close()
        print(json.dumps(figures, indent=1))


def start_hostile(site: Party) -> None:
    """Start a site whose owner changed its software."""
    site.start(PYTHONPATH=str(HOSTILE_PATH), ATTACKS=str(site.folder / "attacks"))


def test_six_kinds_of_attack_are_refused_and_named_while_rounds_complete(consortium: Consortium) -> None:
    consortium.coordinate()
    cycle = consortium.ended(1, 180)
    assert cycle["state"] == "published", cycle["why"]
    assert [one["round"] for one in cycle["rounds"]] == [0, 1, 2, 3, 4, 5]
    for kind, one in zip(ATTACKS, cycle["rounds"][1:], strict=False):
        assert set(one["sites"]) == {"site-1", "site-2"}, one
        assert SAID[kind] in one["refused"]["site-4"], (kind, one["refused"])
        assert "0 new cases" not in one["abstained"]["site-3"]
        assert "100 are wanted" in one["abstained"]["site-3"]
    figures["round_s"] = [one["seconds"] for one in cycle["rounds"][1:]]
    figures["bytes_down"] = cycle["rounds"][1]["bytes_down"]
    figures["bytes_up"] = cycle["rounds"][1]["sites"]["site-1"]["bytes"]
    began = datetime.fromisoformat(cycle["started_at"])
    figures["cycle_s"] = (datetime.now(UTC) - began).total_seconds()
    figures["wire_up"], figures["wire_down"] = consortium.door.up, consortium.door.down


def test_what_left_a_site_stands_in_its_ledger_and_nothing_beside_it_left(consortium: Consortium) -> None:
    site = consortium.sites[1]
    told = json.loads(site.run("federation", "status", "--json").stdout)
    counted = [one["sites"]["site-2"] for one in consortium.cycles()[0]["rounds"][1:]]
    updates = [one for one in told["left"] if one["what"] == "update"]
    assert [one["bytes"] for one in updates] == [one["bytes"] for one in counted]
    assert all(set(one["metrics"]) == {"loss", "dice_before", "dice_after"} for one in counted)
    beside = BESIDE_BYTES + ASKING_BYTES_S * figures["cycle_s"]
    assert figures["wire_up"] < sum(one["bytes"] for one in told["left"]) + beside
    engine = site.data / "sidecar" / "engine"
    assert not list(engine.rglob("*.pkl"))
    assert "Patient" not in site.text()
    assert [one["outcome"] for one in on_record(site, "round_answered")] == ["took_part"] * 5
    held = [one["sites"] for one in on_record(consortium.central, "round_held")]
    assert held == [{"counted": 2, "abstained": 1, "refused": 1, "silent": 0}] * 5


def on_record(party: Party, kind: str) -> list[dict[str, Any]]:
    """Return the details of a kind of event of one side."""
    settings = load(party.file)
    catalogue = open_catalogue(settings.catalogue_url, settings.data_dir)
    try:
        with catalogue.read() as connection:
            return events.details_since(connection, kind, now() - timedelta(hours=1))
    finally:
        catalogue.close()


def test_the_candidate_is_signed_and_names_its_lineage(consortium: Consortium) -> None:
    folder = consortium.central.data / "federation" / "tiny"
    key = read_public_key(consortium.sites[0].folder / "kit" / "publisher.pub")
    package = load_signed(folder / "candidates" / "tiny-0.1.1", Trust({key_id(key): key}))
    lineage = package.manifest.lineage
    assert (lineage.parent, lineage.round, lineage.sites) == ("tiny@0.1.0", 5, 2)
    assert list((package.folder / "golden").glob("*.npz"))
    last = from_bytes((folder / consortium.cycles()[0]["cycle"] / "round-05" / "weights.safetensors").read_bytes())
    own = from_bytes(package.path("weights.safetensors").read_bytes())
    assert all((last[name] == own[name]).all() for name in last)
    digest = hashlib.sha256((folder / "candidates" / "tiny-0.1.1.zip").read_bytes()).hexdigest()
    ledger = consortium.sites[0].data / "sidecar" / "ledger.jsonl"
    wait_for("the candidate at the site", lambda: f"has {digest[:16]}" in ledger.read_text(), 30)
    wait_for("who took it", lambda: "site-1" in consortium.cycles()[0]["took"], 30)


def test_a_sidecar_that_waits_is_one_small_process_that_listens_on_loopback_alone(consortium: Consortium) -> None:
    for site in consortium.sites[:2]:
        assert site.process is not None
        wait_for("the job's end", lambda s=site: not s.children(), 40)
        smaps = Path(f"/proc/{site.process.pid}/smaps_rollup").read_text()
        figures["idle_mb"] = int(re.search(r"Pss:\s+(\d+)", smaps)[1]) / 1024  # type: ignore[index]
        assert figures["idle_mb"] <= IDLE_MB
        for one in psutil.Process(site.process.pid).net_connections("inet"):
            assert one.status != "LISTEN" or one.laddr.ip == "127.0.0.1"


def test_training_gives_way_within_a_second_and_a_killed_site_does_not_hold_the_round(consortium: Consortium) -> None:
    site = consortium.sites[0]
    few = consortium.sites[2].file  # takes part from now on: jobs read the settings anew
    few.write_text(few.read_text().replace("min_new_cases = 100", "min_new_cases = 0"))
    consortium.coordinate()
    trainer = wait_for("training", lambda: training(site), 90, every_s=0.05)
    began = time.monotonic()
    clinical(site, waiting=True)
    wait_for("training to stop", lambda: trainer.status() == psutil.STATUS_STOPPED, 5, every_s=0.02)
    figures["yield_s"] = round(time.monotonic() - began, 3)
    assert figures["yield_s"] <= 1.0
    for process in site.children():
        process.kill()
    site.kill()
    clinical(site, waiting=False)
    cycle = wait_for("the round", lambda: with_round(consortium, 1), 60)
    first = cycle["rounds"][1]
    assert set(first["sites"]) == {"site-2", "site-3"}
    assert first["silent"] == ["site-1"]
    assert SAID["oversized"] in first["refused"]["site-4"]
    site.start()


def test_a_killed_coordinator_goes_on_within_a_minute_and_the_site_is_back(consortium: Consortium) -> None:
    done = len(consortium.cycles()[1]["rounds"])
    assert consortium.central.process is not None
    began = time.time()
    consortium.central.kill()
    consortium.central.start()
    asked = consortium.sites[1].data / "sidecar" / "work" / "request.bin"
    wait_for("the next question", lambda: asked.exists() and asked.stat().st_mtime > began + 2, 120, every_s=0.1)
    figures["resumed_s"] = round(time.time() - began, 1)
    cycle = wait_for("the next round", lambda: with_round(consortium, done), 120)
    assert "site-1" in {*cycle["rounds"][-1]["sites"]}
    assert consortium.ended(2, 120)["state"] == "published"
    figures["rounds_2"] = [one["seconds"] for one in consortium.cycles()[1]["rounds"][1:]]
    assert figures["resumed_s"] <= RESUMED_S


def test_a_site_that_joins_with_a_new_kit_takes_it_at_once(consortium: Consortium) -> None:
    site = consortium.sites[0]
    engine = site.data / "sidecar" / "engine"
    used, log = engine / "startup" / "client.crt", engine / "log.txt"
    before, old = used.read_bytes(), log.stat().st_ino
    consortium.invite(site)
    wait_for("the new certificate", lambda: used.read_bytes() == (site.folder / "kit" / "client.crt").read_bytes(), 30)
    assert used.read_bytes() != before
    wait_for("its new log", lambda: log.exists() and log.stat().st_ino != old, 60)  # the engine begins afresh
    wait_for("the site", lambda: "Successfully registered client" in log.read_text(), 60)


def training(site: Party) -> psutil.Process | None:
    """Return the trainer of a site once it has been given a round of the second cycle."""
    work = site.data / "sidecar" / "work"
    return site.trainer() if (work / "request.bin").exists() and not (work / "answer.bin").exists() else None


def with_round(consortium: Consortium, number: int) -> dict[str, Any] | None:
    """Return the newest cycle once its round `number` is written."""
    cycle = consortium.cycles()[-1]
    return cycle if len(cycle["rounds"]) > number else None


def clinical(site: Party, *, waiting: bool) -> None:
    """Put a clinical job into a site's queue, or take it away."""
    settings, at = load(site.file), datetime.now(UTC)
    catalogue = open_catalogue(settings.catalogue_url, settings.data_dir)
    row = dict(
        id="1914", study_instance_uid="1.2", series_instance_uid="1.2.3", package="tiny", package_version="0.1.0",
        package_digest="ab", input_set="ab", priority=9, state="queued", due_at=at, created_at=at, timings={},
        findings=[],
    )  # fmt: skip
    with catalogue.write() as connection:
        connection.execute(insert(job).values(**row) if waiting else delete(job).where(job.c.id == "1914"))
    catalogue.close()


def test_a_coordinator_that_was_taken_over_gets_no_code_onto_a_site(consortium: Consortium, tmp_path: Path) -> None:
    marker, central = tmp_path / "executed", consortium.central
    account = central.data / "coordinator" / "account" / "startup" / "fed_admin.json"
    wait_for("the account", account.exists, 60)
    central.stop()
    with taken_over(central) as session:
        honest = {"site-1", "site-2", "site-3"}
        wait_for("sites", lambda: honest <= {one.name for one in session.get_connected_client_list()}, 90, every_s=1)
        brought = session.submit_job(str(hostile_job(tmp_path / "brought", marker, code=True)))
        named = session.submit_job(str(hostile_job(tmp_path / "named", marker, code=False)))
        over = ("FINISHED", "FAILED", "ABORTED", "ABNORMAL")
        for one in (brought, named):
            wait_for(
                "the job's end", lambda o=one: any(w in str(session.get_job_status(o)) for w in over), 120, every_s=1
            )
        assert "BYOC not permitted" in json.dumps(session.get_job_meta(brought))
    log = consortium.sites[0].data / "sidecar" / "engine" / named / "log.txt"
    wait_for("the site's refusal", lambda: log.exists() and "not in allow_list" in log.read_text(), 30)
    assert not marker.exists()


@contextmanager
def taken_over(central: Party) -> Iterator[Any]:
    """Run the engine's server under a policy that allows everything; yields a session of its account."""
    from nvflare.fuel.flare_api.flare_api import new_secure_session

    place = central.data / "coordinator" / "server"
    policy = place / "local" / "authorization.json"
    policy.write_text(json.dumps({"format_version": "1.0", "permissions": {"lead": "any"}}))
    resources = json.loads((place / "local" / "resources.json").read_text()) | {"class_allow_list": ["*"]}
    (place / "local" / "resources.json").write_text(json.dumps(resources))
    module = "nvflare.private.fed.app.server.server_train"
    given = ["secure_train=true", "org=petite-curie", "config_folder=config"]
    command = [sys.executable, "-m", module, "-m", str(place), "-s", "fed_server.json", "--set", *given]
    with open(central.folder / "hostile.log", "wb") as log:
        server = subprocess.Popen(
            command, stdout=log, stderr=log, env={**os.environ, "CURIE_CONFIG": str(central.file)}
        )
    try:
        account = str(central.data / "coordinator" / "account")
        session = wait_for(
            "the server", lambda: tried(lambda: new_secure_session("curie@coordinator", account)), 60, every_s=2
        )
        try:
            yield session
        finally:
            tried(session.close)  # its threads would keep this process from ending
    finally:
        server.kill()
        server.wait()


def tried(connect: Callable[[], Any]) -> Any:
    """Return what `connect` returns, None where it cannot."""
    try:
        return connect()
    except Exception:  # noqa: BLE001 - the engine's own errors
        return None


def hostile_job(folder: Path, marker: Path, *, code: bool) -> Path:
    """Write a job that would create `marker` at every site: with code of its own, or by a class that is there."""
    config = folder / "app" / "config"
    config.mkdir(parents=True)
    workflow = {"id": "w", "path": "workers.coordinator.controller.RoundController"}
    server = {"format_version": 2, "workflows": [workflow | {"args": {"package": "tiny", "cycle": "none"}}]}
    touch = {"path": "subprocess.Popen", "args": {"args": ["touch", str(marker)]}}
    executor = {"path": "evil.Evil", "args": {}} if code else touch
    client = {"format_version": 2, "executors": [{"tasks": ["train"], "executor": executor}]}
    (config / "config_fed_server.json").write_text(json.dumps(server))
    (config / "config_fed_client.json").write_text(json.dumps(client))
    (folder / "meta.json").write_text(
        json.dumps({"name": folder.name, "min_clients": 1, "resource_spec": {}, "deploy_map": {"app": ["@ALL"]}})
    )
    if code:
        (folder / "app" / "custom").mkdir()
        (folder / "app" / "custom" / "evil.py").write_text(f"open({str(marker)!r}, 'w').close()\nclass Evil: pass\n")
    return folder
