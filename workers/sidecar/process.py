"""`curie run sidecar`: one process that calls the coordinator and waits; a job of its own process comes and goes.

It must never listen but on loopback. What the engine cannot mend by itself, a fresh start of this very process does.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import signal
import sys
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from appliance.errors import Missing, SettingsError
from appliance.log import logger
from appliance.process import keep_stepping, running
from appliance.settings import Settings, load
from workers.engine_policy import ENVIRONMENT, ORGANISATION
from workers.sidecar.hardening import write_site
from workers.sidecar.places import Places
from workers.sidecar.trials import Trials

LOOK_S = 1.0
AGAIN_S = 5.0
TRIALS_S = 5.0


def become(settings: Settings) -> None:
    """Turn this process into the sidecar, without what the command line had loaded. Raises SettingsError or Missing."""
    if settings.federation is None:
        raise SettingsError("there is no [federation] in the settings; only a site that takes part runs a sidecar")
    if importlib.util.find_spec("nvflare") is None:
        raise Missing("federated rounds need an extra: pip install 'petite-curie[federation]'")
    os.execv(sys.executable, [sys.executable, "-m", "workers.sidecar.process"])


def run(settings: Settings) -> None:
    """Run until told to stop."""
    assert settings.federation is not None
    os.environ.update(ENVIRONMENT)  # for the engine's processes
    places, over = Places(settings.data_dir), threading.Event()
    kit = settings.federation.kit / "kit.json"

    def detail() -> dict[str, Any]:
        return {"joined": kit.exists(), "paused": places.paused.exists()}

    with running("sidecar", settings, detail) as process:
        while not kit.exists() and not process.stop.wait(LOOK_S):
            pass
        begun = written(kit)
        if not process.stop.is_set():
            site, place = write_site(settings)
            threading.Thread(target=_engine, args=(site, place, over, process.stop), daemon=True).start()
            look = partial(Trials(settings, process.catalogue).step, process.stop.is_set)
            threading.Thread(target=keep_stepping, args=(look, process.stop, TRIALS_S), daemon=True).start()
        while not process.stop.wait(LOOK_S):
            if written(kit) != begun:  # it left, or joined with a new kit
                over.set()
                process.stop.set()
    _end_jobs()
    if over.is_set():
        _start_afresh()
    os._exit(0)  # the engine's threads have no end of their own


def written(kit: Path) -> int | None:
    """Return when a kit was put into its place, None where there is none."""
    try:
        return kit.stat().st_mtime_ns
    except FileNotFoundError:
        return None


def _engine(site: str, place: Path, over: threading.Event, stop: threading.Event) -> None:
    """Run the engine's client; whatever ends it sets `over` and `stop`."""
    from nvflare.private.fed.app.client import client_train

    given = ["secure_train=true", f"uid={site}", f"org={ORGANISATION}", "config_folder=config"]
    try:
        client_train.main(
            argparse.Namespace(workspace=str(place), fed_client="fed_client.json", set=given, local_rank=0)
        )
    except BaseException as error:  # noqa: BLE001 - the engine ends itself by SystemExit too
        logger().warning("engine_ended", cause=type(error).__name__)
    over.set()
    stop.set()


def _end_jobs() -> None:
    """End the processes of jobs: a site that stops has nothing running."""
    for child in psutil.Process().children(recursive=True):
        try:
            child.kill()
        except psutil.NoSuchProcess:
            continue


def _start_afresh() -> None:
    """Become a new process of the same number: the engine keeps state that only that clears."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    time.sleep(AGAIN_S)
    os.execv(sys.executable, sys.orig_argv)


if __name__ == "__main__":
    run(load())
