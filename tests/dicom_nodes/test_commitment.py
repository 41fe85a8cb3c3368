"""Nothing is believed that was not asked for, exactly."""

from __future__ import annotations

import pytest

from dicom_nodes.commitment import judge
from dicom_nodes.sender import Reference

SEG, SR = Reference("66.4", "1.1"), Reference("88.34", "1.2")
GOOD = [["66.4", "1.1"], ["88.34", "1.2"]]


def test_all_stored_is_all_committed() -> None:
    verdict = judge([SEG, SR], "PACS", "PACS", GOOD, [])
    assert verdict.committed == (SEG, SR)
    assert not verdict.distrust


def test_what_is_not_held_is_sent_again_and_other_reasons_are_asked_again() -> None:
    verdict = judge([SEG, SR], "PACS", "PACS", [], [["66.4", "1.1", 0x0112], ["88.34", "1.2", 0x0110]])
    assert verdict.committed == ()
    assert verdict.send_again == (SEG,)
    assert verdict.ask_again == ((SR, 0x0110),)


@pytest.mark.parametrize(
    ("said_by", "stored", "failed"),
    [
        ("OTHER", GOOD, []),
        ("PACS", GOOD[:1], []),
        ("PACS", [*GOOD, ["66.4", "1.3"]], []),
        ("PACS", [["66.4", "1.1"], ["66.4", "1.2"]], []),
        ("PACS", [["66.4", "1.2"], ["88.34", "1.1"]], []),
        ("PACS", [*GOOD, GOOD[0]], []),
        ("PACS", GOOD, [["66.4", "1.1", 0x0112]]),
        ("PACS", [], []),
    ],
)
def test_a_report_that_is_not_the_request_is_not_believed(
    said_by: str, stored: list[list[str]], failed: list[list[object]]
) -> None:
    verdict = judge([SEG, SR], "PACS", said_by, stored, failed)
    assert verdict.distrust
    assert (verdict.committed, verdict.send_again, verdict.ask_again) == ((), (), ())
