"""`curie conformance` and `curie request-form`: what this configuration speaks, for the PACS team."""

from __future__ import annotations

import typer

from appliance.cli.output import ConfigOption, JsonOption, print_json
from appliance.settings import load


def conformance(json: JsonOption = False, config: ConfigOption = None) -> None:
    """Print the DICOM conformance statement (PS3.2) of this configuration, as Markdown."""
    from dicom_nodes.conformance import statement

    text = statement(load(config))
    if json:
        print_json({"format": "markdown", "statement": text})
    else:
        typer.echo(text, nl=False)


def request_form(json: JsonOption = False, config: ConfigOption = None) -> None:
    """Print the page to hand to the PACS team: AE titles, ports, SOP classes, firewall, test plan; as Markdown."""
    from dicom_nodes.request_form import request_form as page

    text = page(load(config))
    if json:
        print_json({"format": "markdown", "page": text})
    else:
        typer.echo(text, nl=False)
