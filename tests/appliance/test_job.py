"""Identity of jobs and results."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

from appliance.job import STATES, TRANSITIONS, ResultContext, derived_uid, input_set_digest, job_id, may_become

CONTEXT = ResultContext(
    appliance_name="a", appliance_uid="2.25.1", software_version="1", job_id="j", package="p", package_version="1.0.0",
    package_digest="d", title="t", engine="openvino", precision="f32", made_at=datetime(2026, 1, 1, tzinfo=UTC),
)  # fmt: skip


def test_an_input_set_does_not_depend_on_the_order_of_arrival() -> None:
    assert input_set_digest([("1", "a"), ("2", "b")]) == input_set_digest([("2", "b"), ("1", "a")])
    assert input_set_digest([("1", "a")]) != input_set_digest([("1", "b")])


def test_a_job_is_named_by_input_set_and_package() -> None:
    assert job_id("s", "p") == job_id("s", "p")
    assert len({job_id("s", "p"), job_id("s", "q"), job_id("t", "p")}) == 3


def test_uids_are_valid_and_tell_apart_what_can_change_the_bytes() -> None:
    uids = {CONTEXT.uid("seg"), CONTEXT.uid("sr"), CONTEXT.uid("seg", 1)}
    for change in ({"job_id": "k"}, {"engine": "torch"}, {"precision": "f16"}, {"appliance_uid": "2.25.2"}):
        uids.add(replace(CONTEXT, **change).uid("seg"))
    assert len(uids) == 7
    assert all(uid.startswith("2.25.") and len(uid) <= 64 for uid in uids)
    assert CONTEXT.uid("seg") == replace(CONTEXT).uid("seg")


def test_derived_uids_keep_their_parts_apart() -> None:
    assert derived_uid("a", "bc") != derived_uid("ab", "c")


def test_what_may_become_what() -> None:
    assert may_become("cancelled") == ("queued", "running")
    assert set(may_become("queued")) == {"running", "unsuitable", "failed", "cancelled", "superseded"}
    assert [after for after in STATES if "superseded" in may_become(after)] == ["queued"]


def test_every_state_that_is_named_exists() -> None:
    assert set(STATES) >= {state for after in TRANSITIONS.values() for state in after}
