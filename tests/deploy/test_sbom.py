"""What `make sbom` writes names everything that is installed, with version and licence."""

from __future__ import annotations

import json
import re
import sys
import tomllib
from importlib.metadata import distributions

import pytest

from tests.deploy.tools import ROOT, succeeds

TOOLS = ROOT / ".build" / "release" / "bin"


@pytest.mark.long
def test_the_sbom_and_the_licences_name_what_is_installed() -> None:
    if not (TOOLS / "cyclonedx-py").exists():
        pytest.skip("the tools of a release are not there (make check-deploy)")
    succeeds("make", "sbom", "VENV=none", f"PYTHON={sys.executable}", cwd=ROOT, timeout=300)
    sbom = json.loads((ROOT / ".build" / "sbom.json").read_text())
    assert sbom["bomFormat"] == "CycloneDX"
    assert sbom["metadata"]["component"]["name"] == "petite-curie"
    components = {plain(one["name"]): one["version"] for one in sbom["components"]}
    there = {plain(one.name): one.version for one in distributions() if plain(one.name) != "petite-curie"}
    assert components.items() >= there.items()
    licences = (ROOT / ".build" / "licences.md").read_text()
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    for dependency in declared:
        name = plain(re.split(r"[\[<>=]", dependency)[0])
        (row,) = [line for line in licences.splitlines() if plain(line.split("|")[1].strip()) == name]
        assert row.split("|")[3].strip() not in ("", "UNKNOWN"), row


def plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
