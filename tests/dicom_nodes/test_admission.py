"""AE title, address and certificate belong together: eight cells, one of them is let in."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from appliance.settings import parse
from dicom_nodes.admission import CALLED_AE_UNKNOWN, CALLING_AE_UNKNOWN, ECHO, EVERYTHING, REPORTS, Admission, Caller

RIGHT, WRONG = "sha256:" + "a" * 64, "sha256:" + "b" * 64
TEXT = f"""
[receiver]
unknown_sources = "UNKNOWN"
[[sources]]
ae_title = "CT1"
hosts = ["10.0.0.0/8"]
fingerprint = "{RIGHT}"
[[sources]]
ae_title = "OLD"
hosts = ["10.0.0.0/8"]
[[destinations]]
name = "pacs"
ae_title = "PACS"
host = "10.0.0.9"
"""


def admission(unknown: str = "refuse") -> Admission:
    return Admission(parse(TEXT.replace("UNKNOWN", unknown), Path("/x/curie.toml")))


@pytest.mark.parametrize("unknown", ["refuse", "accept"])
@pytest.mark.parametrize(
    ("title", "address", "certificate"),
    list(itertools.product(["CT1", "OTHER"], ["10.0.0.1", "192.168.0.1"], [RIGHT, WRONG])),
)
def test_only_the_full_match_is_the_source(unknown: str, title: str, address: str, certificate: str) -> None:
    verdict = admission(unknown).judge(Caller("CURIE", title, address, certificate))
    matches = (title, address, certificate) == ("CT1", "10.0.0.1", RIGHT)
    stranger = title == "OTHER" and unknown == "accept"
    assert bool(verdict.services) == (matches or stranger)
    assert verdict.listed == matches
    if not verdict.services:
        assert verdict.rejection == CALLING_AE_UNKNOWN
        assert verdict.reason


def test_a_source_with_a_certificate_may_not_come_in_the_clear() -> None:
    verdict = admission().judge(Caller("CURIE", "CT1", "10.0.0.1"))
    assert not verdict.services
    assert "without TLS" in verdict.reason


def test_a_source_without_one_may_come_either_way() -> None:
    for certificate in ("", RIGHT):
        assert admission().judge(Caller("CURIE", "OLD", "10.0.0.1", certificate)).services == EVERYTHING


def test_a_destination_is_listed_only_from_its_own_address() -> None:
    found = admission()
    found.resolve()
    assert found.judge(Caller("CURIE", "PACS", "10.0.0.9")).listed
    assert not found.judge(Caller("CURIE", "PACS", "10.9.9.9")).listed


def test_two_entries_of_one_title_are_both_looked_at() -> None:
    more = f'[[sources]]\nae_title = "CT1"\nhosts = ["172.16.0.0/16"]\nfingerprint = "{WRONG}"\n'
    found = Admission(parse(TEXT.replace("UNKNOWN", "refuse") + more, Path("/x/curie.toml")))
    assert found.judge(Caller("CURIE", "CT1", "172.16.0.1", WRONG)).listed
    assert found.judge(Caller("CURIE", "CT1", "10.0.0.1", RIGHT)).listed
    assert not found.judge(Caller("CURIE", "CT1", "172.16.0.1", RIGHT)).services


def test_destinations_report_and_we_may_verify_from_here() -> None:
    found = admission()
    assert found.judge(Caller("CURIE", "CURIE", "10.0.0.5", local="10.0.0.5")).services == ECHO
    assert found.judge(Caller("CURIE", "PACS", "10.9.9.9")).services == REPORTS
    assert found.judge(Caller("CURIE", "CURIE", "127.0.0.1")).services == ECHO
    assert not found.judge(Caller("CURIE", "CURIE", "10.0.0.1")).services
    assert found.judge(Caller("OTHER", "OLD", "10.0.0.1")).rejection == CALLED_AE_UNKNOWN


@pytest.mark.parametrize(
    ("address", "certificate", "who"),
    [
        ("10.0.0.1", RIGHT, ("CT1", True, "")),
        ("192.168.0.1", RIGHT, ("STOW", False, "a source's certificate from another address")),
        ("10.0.0.1", WRONG, ("OLD", True, "")),
        ("10.0.0.1", "", ("OLD", True, "")),
        ("192.168.0.1", "", ("STOW", False, "unknown source")),
        ("11.0.0.1", "", ("STOW", False, "a source with a certificate came without it")),
        ("12.0.0.1", "", ("STOW", True, "")),
    ],
)
def test_http_knows_a_source_by_certificate_else_by_address(
    address: str, certificate: str, who: tuple[str, bool, str]
) -> None:
    more = f'[[sources]]\nae_title = "BOUND"\nhosts = ["11.0.0.1"]\nfingerprint = "sha256:{"c" * 64}"\n'
    more += "".join(f'[[sources]]\nae_title = "TWIN{n}"\nhosts = ["12.0.0.0/24"]\n' for n in (1, 2))
    more += '[[sources]]\nae_title = "ANYWHERE"\n'
    for unknown in ("refuse", "accept"):
        text = TEXT.replace("UNKNOWN", unknown).replace("[[destinations]]", f"{more}[[destinations]]")
        found = Admission(parse(text, Path("/x/curie.toml"))).recognise(address, certificate)
        may = unknown == "accept" and who[2] != "a source's certificate from another address"
        assert (found.ae_title, found.listed, found.problem) == (*who[:2], "" if may else who[2])
