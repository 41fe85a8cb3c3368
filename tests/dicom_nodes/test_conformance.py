"""The conformance statement says what negotiation does."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from pynetdicom import sop_class

from appliance.settings import parse
from dicom_nodes import sender
from dicom_nodes.conformance import ASKED, statement, storage_classes
from dicom_nodes.conformance_objects import OBJECTS, TEMPLATES
from dicom_nodes.contexts import DEFLATED, EXPLICIT_LE, IMPLICIT_LE, answer_context
from dicom_nodes.pdu import MAXIMUM_LENGTH, ProposedContext
from dicom_nodes.result_classes import BY_ROLE
from tests.dicom_nodes.conftest import SETTINGS

HOUSE = Path(__file__).parents[2]
DOCS = HOUSE / "docs"

TEXT = SETTINGS.format(port=11112, more="max_associations = 7")


def test_every_class_it_names_is_accepted_and_every_syntax_it_excludes_is_not() -> None:
    text = statement(parse(TEXT, Path("/x/curie.toml")))
    table = text.split("##### 4.2.1.2")[1].split("Acceptance criterion")[0]
    named = re.findall(r"\| ([0-9.]+) \|", table)
    assert set(storage_classes()) <= set(named)
    assert len(named) == len(storage_classes()) + 4
    for uid in named:
        assert answer_context(ProposedContext(1, uid, (EXPLICIT_LE,)), lambda service: True).result == 0, uid
    for syntax in DEFLATED:
        assert syntax in text
        assert answer_context(ProposedContext(1, named[-1], (syntax,)), lambda service: True).result == 4


def test_it_speaks_of_this_configuration() -> None:
    text = statement(parse(TEXT, Path("/x/curie.toml")))
    assert "| simultaneous associations | 7 |" in text
    assert f"{MAXIMUM_LENGTH} bytes" in text
    assert "| SCANNER | 127.0.0.0/8 | none asked |" in text
    assert "| pacs | PACS | SEG, SR | yes | no | no |" in text
    assert "no TLS port is configured" in text
    assert "Other AE titles are refused" in text
    assert "STOW-RS | not configured | not configured" in text
    assert "UPS-RS, as performer | not configured | no" in text
    stow = SETTINGS.format(port=11112, more="stow = true\nstow_port = 8444")
    assert "on port 8444, HTTP:" in statement(parse(stow, Path("/x/curie.toml")))
    secure = TEXT + '[receiver.tls]\ncertificate = "a"\nkey = "b"\nca = "c"\n'
    assert "TLS 1.2 and 1.3 on port 2762" in statement(parse(secure, Path("/x/curie.toml")))


def test_it_speaks_of_web_services_and_notifications() -> None:
    more = (
        '[[destinations]]\nname = "web"\nurl = "https://pacs/rs"\n'
        '[[destinations]]\nname = "ris"\nae_title = "RIS"\nhost = "ris"\nnotify = true\n'
        '[[routes]]\nname = "r"\npackage = "p"\n'
        '[[worklists]]\nname = "list"\nurl = "https://pacs/rs"\nroute = "r"\nlabel = "AI"\n'
    )
    text = statement(parse(TEXT + more, Path("/x/curie.toml")))
    assert "| web | https://pacs/rs | SEG, SR | no | no | no |" in text
    assert "| ris | RIS | SEG, SR | yes | no | yes |" in text
    assert "| list | https://pacs/rs | r |  | AI |  |" in text
    assert "Instance Availability Notification | yes | yes" in text
    assert "UPS-RS, as performer | yes | no" in text
    assert "STOW-RS user agent" in text


def test_tables_are_whole() -> None:
    for line in statement(parse(TEXT, Path("/x/curie.toml"))).splitlines():
        if line.startswith("|"):
            assert line.endswith("|")


def test_every_class_that_is_sent_has_a_name() -> None:
    sent = statement(parse(TEXT, Path("/x/curie.toml"))).split("##### 4.2.2.1")[1].split("Status 0000")[0]
    rows = [line.split(" | ")[0].strip("| ") for line in sent.splitlines() if line.startswith("|")]
    assert "Label Map Segmentation Storage" in rows
    assert "" not in rows


def test_the_published_statement_is_what_the_command_says() -> None:
    settings = parse((DOCS / "conformance.toml").read_text(), DOCS / "conformance.toml")
    remedy = "run: curie conformance --config docs/conformance.toml >docs/conformance.md"
    assert (DOCS / "conformance.md").read_text() == statement(settings), remedy


def test_its_sections_stand_in_the_order_of_the_standard() -> None:
    text = (DOCS / "conformance.md").read_text()
    assert re.findall(r"^## (\d) ", text, re.MULTILINE) == ["1", "3", "4", "5", "6", "7", "8"]
    assert "not configured" not in text.split("## 3")[0]
    assert not re.search(r"^\|  \|", text, re.MULTILINE)  # a class without a name


def test_it_names_every_service_that_the_code_asks_for() -> None:
    asked = set()
    for file in (HOUSE / "dicom_nodes").glob("*.py"):
        if file.name not in ("demo_pacs.py", "conformance.py"):
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.ImportFrom) and node.module == "pynetdicom.sop_class":
                    asked |= {getattr(sop_class, one.name) for one in node.names if not one.name.startswith("_")}
    assert asked == set(ASKED)


@pytest.mark.parametrize("uid", ASKED)
def test_it_proposes_the_transfer_syntaxes_that_it_names(uid: str) -> None:
    assert sender.proposal(uid).transfer_syntax == [EXPLICIT_LE, IMPLICIT_LE]
    assert {one.transfer_syntax[0] for one in sender.storage_contexts([uid])} == {EXPLICIT_LE, IMPLICIT_LE}


def test_no_context_is_proposed_past_that() -> None:
    files = [path for path in (HOUSE / "dicom_nodes").glob("*.py") if "build_context(" in path.read_text()]
    assert {path.name for path in files} == {"sender.py", "demo_pacs.py"}


def test_each_object_and_each_template_is_told() -> None:
    assert OBJECTS.keys() == BY_ROLE.keys()
    sources = " ".join(path.read_text() for path in (HOUSE / "dicom_nodes").glob("*.py") if "conform" not in path.name)
    told = {
        tid
        for found in re.findall(r"TIDs? (\d{4}(?:(?:, | and )\d{4})*)", sources)
        for tid in re.findall(r"\d+", found)
    }
    assert told - {"4100"} == TEMPLATES.keys()  # 4100 is named for a code, and not used
