"""docs/regulatory.md lists every direct dependency as it is, and names tables, settings and keys that exist."""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, metadata

import pytest

from appliance.catalogue.tables import metadata as catalogue
from appliance.settings import parse
from deploy import soup
from tests.commands_in_docs import ROOT

PAGE = (ROOT / "docs" / "regulatory.md").read_text()


def test_the_list_is_that_of_the_project() -> None:
    assert soup.SOUP.keys() == soup.dependencies().keys()
    assert PAGE.endswith(soup.table() + "\n"), "run: python -m deploy.soup, and put what it prints at the end"


@pytest.mark.parametrize("name", soup.SOUP)
def test_version_and_licence_are_those_of_what_is_installed(name: str) -> None:
    try:
        held = metadata(name)
    except PackageNotFoundError:
        pytest.skip(f"{name} is not installed")
    assert held["Version"].split("+")[0] == soup.versions()[soup.plain(name)].removeprefix("==")
    classifiers = [one for one in held.get_all("Classifier") or [] if one.startswith("License")]
    said = " ".join([held["License-Expression"] or "", held["License"] or "", *classifiers]).upper()
    words = re.split(r"-| OR | AND ", soup.SOUP[name].licence.upper())
    assert words[0] in said, said[:200]


def test_tables_settings_and_promises_are_real() -> None:
    settings = parse("", ROOT / "curie.toml")
    assert f"kept ten years (`audit.keep_years`, {settings.audit.keep_years})" in PAGE
    for table, column in (("job", "engine"), ("job", "skipped"), ("job", "supersedes"), ("job_input", "instance_id")):
        assert column in catalogue.tables[table].columns
    for table in ("job_input", "package_change", "engine_report"):
        assert f"`{table}`" in PAGE
        assert table in catalogue.tables
