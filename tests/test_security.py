"""docs/security.md names tests, settings and files that exist, and no folder of threats without a proof."""

from __future__ import annotations

import re

import pytest

from appliance.settings import parse
from models.signing import ZOO_KEY, site_key
from tests.commands_in_docs import ROOT

PAGE = (ROOT / "docs" / "security.md").read_text()
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in PAGE.split("## Threats")[1].split("## ")[0].splitlines()
    if line.startswith("|") and not line.startswith(("|---", "| threat", "| **"))
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0][:40])
def test_each_threat_has_an_answer_and_a_test_that_exists(row: list[str]) -> None:
    _, answer, tests = row
    assert answer
    named = re.findall(r"`(tests/[\w/]+\.py)`", tests)
    assert named
    for test in named:
        assert re.search(r"^\s*def test_", (ROOT / test).read_text(), re.MULTILINE), test


def test_what_it_says_of_settings_and_keys_is_so() -> None:
    settings = parse("", ROOT / "curie.toml")
    assert settings.models.allow_unsigned is False
    assert settings.receiver.unknown_sources == "refuse"
    assert settings.console.host == "127.0.0.1"
    assert ZOO_KEY.relative_to(ROOT).as_posix() in PAGE
    assert site_key(ROOT / "data_dir").relative_to(ROOT).as_posix() in PAGE
    for path in re.findall(r"`(deploy/[\w./]+)`", PAGE):
        assert (ROOT / path).exists(), path
