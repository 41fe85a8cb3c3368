"""Everything that calls for a person is said in one way, told once when it comes and once when it goes."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from appliance.alarms import PATIENCE, Alarm, Facts, alarms, change, needed
from appliance.objective import Answered

AT = datetime(2026, 1, 1, tzinfo=UTC)
NEEDED = needed("embedded")
RUNNING = [{"name": f"{kind}-1" if kind == "worker" else kind, "host": "h", "healthy": True} for kind in NEEDED]
WELL = Facts(RUNNING, NEEDED, free_gb=50.0, reserve_gb=5.0)
LATE = Answered("brain", 40, 20.0, 700.0, 600.0, {"wait_s": 0.9, "inference_s": 0.1})


def ago(**length: float) -> datetime:
    return AT - timedelta(**length)


def test_nothing_is_said_of_a_house_that_is_well() -> None:
    assert alarms(WELL, AT) == []
    kept = (replace(LATE, p95_s=500.0), replace(LATE, objective_s=None))
    busy = {step: (3, AT - patience) for step, patience in PATIENCE.items()}
    waiting = {"pacs": (2, AT - PATIENCE["delivering"])}
    assert alarms(replace(WELL, answers=kept, standing=busy, waiting=waiting), AT) == []


AWAY = {"name": "worker-1", "host": "h", "healthy": False}
CASES: list[tuple[dict[str, Any], str, str]] = [
    (
        {"processes": [*(one for one in RUNNING if one["name"] != "worker-1"), AWAY]},
        "process worker-1 on h",
        "Process worker-1 does not answer. It is restarted",
    ),
    ({"processes": RUNNING[1:]}, "process receiver", "No receiver is running. `curie up`"),
    ({"processes": RUNNING[:-1]}, "process broker", "No broker is running."),
    ({"free_gb": 9.0}, "disk", "9.0 GB are free; images will soon be refused. Free space"),
    ({"free_gb": 3.0}, "disk", "3.0 GB are free: images are refused."),
    ({"free_gb": None}, "disk", "cannot be read. `curie doctor`"),
    ({"standing": {"receiving": (1, ago(minutes=21))}}, "step receiving", "still being received for 21 minutes"),
    ({"standing": {"complete": (1, ago(minutes=3))}}, "step complete", "not routed for 3 minutes (1 at this step)"),
    ({"standing": {"queued": (4, ago(minutes=31))}}, "step queued", "A job waits for 31 minutes (4 at this step)"),
    ({"standing": {"running": (1, ago(minutes=31))}}, "step running", "A job runs for 31 minutes"),
    ({"waiting": {"pacs": (2, ago(minutes=16))}}, "destination pacs", "2 results for pacs: the first waits for 16 min"),
    ({"failed": {"brain": 1}}, "failed brain", "1 job of brain failed in the last 24 hours. Each says why"),
    ({"rejected": {"pacs": 2}}, "rejected by pacs", "2 results rejected by pacs"),
    ({"conflicting": 1}, "conflicting images", "1 image came with other pixels"),
    ({"fell_back": ("a@1.0.1",)}, "model a@1.0.1", "fell back"),
    ({"answers": (LATE,)}, "route brain", "11 minutes, 10 minutes are promised. Most of it is wait (90%)."),
    (
        {"untold": {"webhook": ago(minutes=3)}},
        "alerts webhook",
        f"told by webhook since {ago(minutes=3).astimezone():%Y-%m-%d %H:%M}. `curie doctor` says why (alerts.webhook)",
    ),
    (
        {"checks": [{"name": "certificate a.crt", "text": "2 days left", "remedy": "Renew it"}]},
        "check certificate a.crt",
        "certificate a.crt: 2 days left. Renew it.",
    ),
]


@pytest.mark.parametrize(("changed", "name", "words"), CASES, ids=[name for _, name, _ in CASES])
def test_each_trouble_has_a_name_a_sentence_and_the_next_step(changed: dict[str, Any], name: str, words: str) -> None:
    (found,) = alarms(replace(WELL, **changed), AT)
    assert found.name == name
    assert words in found.text
    assert found.said.endswith(".")
    assert found.remedy.endswith(".")


def test_the_name_stays_while_the_words_change() -> None:
    early, late = (alarms(replace(WELL, standing={"queued": (n, ago(minutes=30 + n))}), AT) for n in (1, 9))
    assert early[0].name == late[0].name
    assert early[0].said != late[0].said


def test_a_broker_of_somebody_else_is_not_missed() -> None:
    assert alarms(replace(WELL, processes=RUNNING[:-1], needed=needed("redis://other")), AT) == []


def test_only_what_changed_is_told_and_what_lasts_for_one_look_is_not() -> None:
    disk, queue = Alarm("disk", "Full.", "Free it."), Alarm("queue", "Late.", "Look.")
    assert change([], [], [disk, queue], AT) is None  # seen once
    first = change([], ["disk", "queue"], [disk, queue], AT)
    assert first is not None
    assert (first.raised, first.cleared) == ([disk, queue], [])
    told = ["disk", "queue"]
    assert change(told, told, [replace(disk, said="Fuller."), queue], AT) is None
    assert change(told, told, [queue], AT) is None  # missed once
    second = change(told, ["queue"], [queue], AT)
    assert second is not None
    assert (second.raised, second.cleared) == ([], ["disk"])
