"""The rule that chooses a transfer syntax, and the tables beside it."""

from __future__ import annotations

import pytest

from dicom_nodes.contexts import choose_syntax, is_document, is_uid

IMPLICIT, EXPLICIT, BIG = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"
J2K, DEFLATED, PRIVATE = "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.1.99", "1.3.46.670589.33.1.4.1"


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [
        ([EXPLICIT], EXPLICIT),
        ([IMPLICIT], IMPLICIT),
        ([IMPLICIT, EXPLICIT], EXPLICIT),
        ([IMPLICIT, BIG], IMPLICIT),
        ([J2K, IMPLICIT, EXPLICIT], J2K),
        ([EXPLICIT, J2K], EXPLICIT),
        ([PRIVATE, EXPLICIT], PRIVATE),
        ([DEFLATED, IMPLICIT], IMPLICIT),
        ([DEFLATED], None),
        ([], None),
    ],
)
def test_the_senders_choice_is_kept_but_deflated(offered: list[str], chosen: str | None) -> None:
    assert choose_syntax(offered) == chosen


@pytest.mark.parametrize(
    ("sop_class", "document"),
    [
        ("1.2.840.10008.5.1.4.1.1.4", False),  # MR
        ("1.2.840.10008.5.1.4.1.1.4.1", False),  # enhanced MR
        ("1.2.840.10008.5.1.4.1.1.7", False),  # secondary capture
        ("1.2.840.10008.5.1.4.1.1.88.67", True),  # X-ray radiation dose SR
        ("1.2.840.10008.5.1.4.1.1.88.59", True),  # key objects
        ("1.2.840.10008.5.1.4.1.1.66.4", True),  # segmentation
        ("1.2.840.10008.5.1.4.1.1.11.1", True),  # presentation state
        ("1.2.840.10008.5.1.4.1.1.104.1", True),  # PDF
    ],
)
def test_documents_are_told_from_images(sop_class: str, document: bool) -> None:
    assert is_document(sop_class) is document


def test_uids_are_digits_and_dots() -> None:
    assert is_uid("1.2.840")
    assert is_uid("1.02.3")
    assert not is_uid("1.2.840\n")
    assert not is_uid("1" * 65)
