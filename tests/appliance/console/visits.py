"""What a browser does beside asking: sending a form with its token, and reading what a page says."""

from __future__ import annotations

import html
import re
from typing import Any

from starlette.testclient import TestClient

from appliance.catalogue import Catalogue, flow
from appliance.console.access import form_token
from appliance.console.pages.audit import KINDS


def send(client: TestClient, path: str, **fields: str) -> Any:
    """Post a form as a page of this session would."""
    return client.post(path, data={"token": form_token(client.cookies["curie"]), **fields})


def said(answer: Any) -> str:
    """Return what a page says: its text without markup."""
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", " ", answer.text)))


def on_record(catalogue: Catalogue) -> list[tuple[str, str, str]]:
    """Return kind, person and study of every entry of the audit trail, the oldest first."""
    with catalogue.read() as connection:
        found = flow.happened(connection, list(KINDS))
    return [(one["kind"], one["detail"].get("who", ""), one["study_instance_uid"]) for one in reversed(found)]
