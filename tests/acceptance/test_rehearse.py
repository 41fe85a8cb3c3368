"""`curie rehearse` with a real PACS: every step passes, the phantom is gone here afterwards; what fails is named."""

from __future__ import annotations

import pytest

from tests.acceptance.house import Appliance, Orthanc

pytestmark = pytest.mark.acceptance


def test_a_phantom_patient_goes_through_the_whole_line(pair: tuple[Appliance, Orthanc]) -> None:
    appliance, orthanc = pair
    text = appliance.file.read_text()
    appliance.file.write_text(text.replace('name = "pacs"\n', 'name = "pacs"\nfind = true\n'))  # read by the command
    try:
        told = appliance.json("rehearse", "pacs", "--seconds", "120")
    finally:
        appliance.file.write_text(text)
    assert [(one["name"], one["ok"]) for one in told["steps"]] == [
        (name, True) for name in ("association", "received", "read", "delivered", "held there", "the same there")
    ], told
    by_name = {one["name"]: one["text"] for one in told["steps"]}
    assert "committed" in by_name["delivered"]
    assert "2 results fetched by C-GET are what was sent" in by_name["the same there"]
    assert "as SCANNER" in by_name["received"]  # our own title may not store
    study = by_name["received"].split()[-1]
    assert orthanc.results(study)
    assert not list((appliance.folder / "data" / "results").glob(f"**/*{study}*"))
    again = appliance.json("explain", study)
    assert again["instances_by_state"]
    ran = appliance.run("audit", "verify")
    assert ran.returncode == 0, ran.stderr


def test_a_destination_that_is_away_fails_at_the_first_step(pair: tuple[Appliance, Orthanc]) -> None:
    appliance, _ = pair
    text = appliance.file.read_text()
    away = '[[destinations]]\nname = "away"\nae_title = "AWAY"\nhost = "127.0.0.1"\nport = 1\n'
    appliance.file.write_text(text.replace("[[destinations]]", f"{away}[[destinations]]", 1))
    try:
        told = appliance.json("rehearse", "away", "--seconds", "20")
    finally:
        appliance.file.write_text(text)
    assert [one["ok"] for one in told["steps"]] == [False]
    assert "AWAY" in told["steps"][0]["text"]
