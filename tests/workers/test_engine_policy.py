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
from workers.coordinator.controller import answer_of
from workers.coordinator.lineage import CycleRecord
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
