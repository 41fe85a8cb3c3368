"""What the engine's own classes let through, and what a job of ours is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from appliance.federation_settings import Coordinator

pytest.importorskip("nvflare")

from nvflare.apis.fl_constant import ReturnCode
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable, make_reply

from workers.asking import CONTENT
from workers.coordinator.controller import answer_of, candidate_file, hand_out
from workers.coordinator.lineage import CycleRecord, Lineage
from workers.coordinator.process import write_job
from workers.engine_policy import EXECUTOR
from workers.sidecar import hardening
from workers.sidecar.executor import OnlyContent, SiteExecutor


def test_the_site_s_filter_drops_all_but_the_declared_bytes() -> None:
    result = Shareable({CONTENT: b"update", "log": "patient 4711"})
    result.set_header("notes", "patient 4711")
    kept = OnlyContent().process(result, FLContext())
    assert kept[CONTENT] == b"update"
    assert "4711" not in str(dict(kept))


@pytest.mark.parametrize("result", [Shareable({"images": b"x".hex()}), Shareable({CONTENT: "text"})])
def test_a_result_without_declared_bytes_is_an_error_without_content(result: Shareable) -> None:
    kept = OnlyContent().process(result, FLContext())
    assert kept.get_return_code() != ReturnCode.OK
    assert CONTENT not in kept


def test_what_an_engine_replies_is_bytes_or_trouble() -> None:
    assert answer_of("one", Shareable({CONTENT: b"x"})).content == b"x"
    assert "EXECUTION_EXCEPTION" in answer_of("one", make_reply(ReturnCode.EXECUTION_EXCEPTION)).trouble
    assert answer_of("one", Shareable({CONTENT: "x"})).trouble
    assert answer_of("one", None).trouble


def test_a_job_is_configuration_alone_and_names_the_one_class_that_sites_allow(tmp_path: Path) -> None:
    cycle = CycleRecord("cycle-1", "tiny", "1.0.0", "ab" * 32, 3, "2026-11-22T00:00:00+00:00")
    folder = write_job(tmp_path / "job", cycle, Coordinator(schedule=""))
    files = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    assert files == ["app/config/config_fed_client.json", "app/config/config_fed_server.json", "meta.json"]
    client = json.loads((folder / "app/config/config_fed_client.json").read_text())
    assert [one["executor"]["path"] for one in client["executors"]] == [EXECUTOR]
    assert f"{SiteExecutor.__module__}.{SiteExecutor.__qualname__}" == EXECUTOR
    assert hardening.resources()["class_allow_list"] == [EXECUTOR]
    assert hardening.resources()["allow_log_streaming"] is False


class Hands:
    """Notes who was sent a package; the site that is named refuses it."""

    def __init__(self, *sites: str, refuses: str = "") -> None:
        self.here, self.refuses, self.sent = list(sites), refuses, list[list[str]]()

    def sites(self) -> list[str]:
        return self.here

    def hand_out(self, file: Path, sites: list[str]) -> list[str]:
        assert file.name == "tiny-1.0.1.zip"
        self.sent.append(sites)
        return [one for one in sites if one != self.refuses]


def test_a_site_that_was_away_gets_the_package_later_and_nobody_gets_it_twice(tmp_path: Path) -> None:
    lineage = Lineage(tmp_path, "tiny")
    begun = CycleRecord("cycle-1", "tiny", "1.0.0", "ab" * 32, 3, "2026-11-22T00:00:00+00:00")
    lineage.change(begun, state="published", candidate="1.0.1")
    place = candidate_file(tmp_path, lineage.cycle("cycle-1"))
    first, second, third = Hands("a", "b", refuses="b"), Hands("a", "b", "c"), Hands("a", "b", "c")
    hand_out(lineage.cycle("cycle-1"), lineage, first, tmp_path)  # type: ignore[arg-type]
    assert first.sent == []  # there is no file of it any more
    place.parent.mkdir(parents=True)
    place.touch()
    for hands in (first, second, third):
        hand_out(lineage.cycle("cycle-1"), lineage, hands, tmp_path)  # type: ignore[arg-type]
    assert (first.sent, second.sent, third.sent) == ([["a", "b"]], [["b", "c"]], [])
    assert lineage.cycle("cycle-1").took == ("a", "b", "c")
