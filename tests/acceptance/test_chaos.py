"""Studies keep coming while processes are killed at random, by seed: each study ends with exactly one result set."""

from __future__ import annotations

import os
import random
import signal
import threading
from pathlib import Path

import pytest

from tests.acceptance.house import Appliance, Orthanc, dcmsend
from tests.acceptance.test_killed import flush, small_head

pytestmark = [pytest.mark.acceptance, pytest.mark.long]
Pair = tuple[Appliance, Orthanc]
STUDIES = 6
VICTIMS = ("worker", "dispatch", "delivery", "broker", "flush")


@pytest.mark.parametrize("seed", [7])
def test_random_kills_lose_and_double_nothing(pair: Pair, tmp_path: Path, seed: int) -> None:
    appliance, orthanc = pair
    over = threading.Event()
    killer = threading.Thread(target=kill_at_random, args=(appliance, random.Random(seed), over))
    killer.start()
    try:
        studies = []
        for number in range(STUDIES):
            folder = tmp_path / str(number)
            studies.append(small_head(folder, 1000 * seed + number))
            dcmsend([folder], appliance.port)
    finally:
        over.set()
        killer.join()
    for study in studies:
        assert appliance.final(study, seconds=180)["outcome"] == "completed"
        assert {k: len(v) for k, v in orthanc.results(study).items()} == {"SEG": 1, "SR": 1}
    assert len([j for j in appliance.json("jobs", "list") if j["study_instance_uid"] in studies]) == STUDIES


def kill_at_random(appliance: Appliance, chance: random.Random, over: threading.Event) -> None:
    """Kill, or empty the broker, every few seconds; a victim that is just being restarted is spared."""
    while not over.wait(chance.uniform(2, 6)):
        victim = chance.choice(VICTIMS)
        try:
            if victim == "flush":
                flush(appliance, "broker")
            else:
                os.kill(appliance.pid(victim), signal.SIGKILL)
        except (StopIteration, ProcessLookupError, OSError, AssertionError):
            continue
        except Exception as error:
            if type(error).__module__.split(".")[0] != "redis":
                raise
