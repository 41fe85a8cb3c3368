"""The page for the PACS team says what the settings say."""

from __future__ import annotations

from pathlib import Path

from appliance.settings import load
from dicom_nodes.request_form import request_form

SETTINGS = """
[appliance]
name = "radium"
[receiver]
ae_title = "RADIUM"
port = 11113
[[sources]]
ae_title = "ROUTER"
hosts = ["10.1.0.0/16"]
[[destinations]]
name = "archive"
ae_title = "ARCHIVE"
host = "pacs.example.org"
port = 104
find = true
results = ["SEG", "SR", "KOS"]
[[destinations]]
name = "web"
url = "https://pacs.example.org/dicom-web"
commitment = false
[[routes]]
name = "brain-mr"
package = "brain-structures"
destinations = ["archive"]
match = { Modality = "MR", BodyPartExamined = ["BRAIN", "HEAD"] }
"""


def test_the_page_names_both_ways_the_firewall_and_a_plan(tmp_path: Path) -> None:
    (tmp_path / "curie.toml").write_text(SETTINGS)
    text = request_form(load(tmp_path / "curie.toml"))
    for words in (
        "| AE title | RADIUM |", "| port | 11113 |", "| ROUTER | 10.1.0.0/16 |",
        "Modality is MR; BodyPartExamined is BRAIN or HEAD", "ARCHIVE, pacs.example.org:104",
        "Key Object Selection Document Storage (1.2.840.10008.5.1.4.1.1.88.59)", "Storage Commitment Push Model",
        "Study Root Query/Retrieve FIND", "https://pacs.example.org/dicom-web",
        "| ROUTER (10.1.0.0/16) | appliance | 11113/tcp | images |",
        "| archive (pacs.example.org) | appliance | 11113/tcp | reports of commitment |",
        "`curie destinations test`", "| `curie rehearse archive` on the appliance |",
        "holds none longer than 30 days. The",
    ):  # fmt: skip
        assert words in text, words
    web = text.split("### web")[1]
    assert "Storage Commitment" not in web.split("## 3")[0]


def test_a_source_that_may_be_asked_and_training_cases_are_told(tmp_path: Path) -> None:
    text = SETTINGS.replace('hosts = ["10.1.0.0/16"]', 'hosts = ["10.1.0.0/16"]\nhost = "10.1.0.7"\nport = 4242')
    federation = '[federation]\ncoordinator = "grpcs://fl.example.org:8002"\nkit = "kit"\n'
    (tmp_path / "curie.toml").write_text(text + federation)
    page = request_form(load(tmp_path / "curie.toml"))
    for words in (
        "ROUTER (10.1.0.7:4242): please let CURIE ask it by C-FIND", "C-MOVE with RADIUM as move destination",
        "or by C-GET", "| appliance | ROUTER (10.1.0.7) | 4242/tcp |",
        "longer than 30 days, the images of labelled training cases for up to 1825 days. The",
    ):  # fmt: skip
        assert words in page, words
