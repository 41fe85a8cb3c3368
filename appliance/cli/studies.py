"""`curie studies …` and `curie explain`: what came in, and what became of it."""

from __future__ import annotations

import getpass
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from appliance.catalogue import overview, packages
from appliance.cli import replay
from appliance.cli.output import ConfigOption, JsonOption, console, print_json, print_table, reading
from appliance.errors import Missing
from appliance.package_life import VersionRow
from appliance.settings import load

app = typer.Typer(no_args_is_help=True, help="Studies that were received.")
StudyArgument = Annotated[str, typer.Argument(help="Study Instance UID or Accession Number.")]


@app.command("list")
def list_studies(
    limit: Annotated[int, typer.Option(help="At most so many, newest first.")] = 50,
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Show the latest studies."""
    with reading(config) as (_, connection):
        found = overview.studies(connection, limit)
    if json:
        print_json(found)
        return
    rows = [
        (s["study_instance_uid"], s["accession_number"], _state(s), s["instances"], s["last_received_at"])
        for s in found
    ]
    print_table(("study", "accession", "state", "images", "last received"), rows)


def _state(told: dict[str, Any]) -> str:
    gone = told["forgotten"]
    return f"forgotten on {gone['at'][:10]} by {gone['who']}" if gone else str(told["state"])


app.command("replay")(replay.replay)


@app.command("forget")
def forget_study(
    study: StudyArgument,
    reason: Annotated[str, typer.Option(help="Why; it stays on record, for every viewer to read. Write no name.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Delete images, results and training cases of a study, and what its rows tell of the patient; the record stays.

    What a PACS holds is the PACS's; what was learned in past rounds cannot be unlearned. `curie federation opt-out`
    keeps a patient out of training from then on. Backups hold the study until they are overwritten.
    """
    from appliance.catalogue import open_catalogue
    from workers.forgetting import forget

    settings = load(config)
    catalogue = open_catalogue(settings.catalogue_url, settings.data_dir)
    try:
        with catalogue.read() as connection:
            uid = overview.find_study(connection, study)
        if not yes and not sys.stdin.isatty():
            raise Missing("nothing is deleted: there is no terminal to ask on; say --yes")
        if not yes:
            typer.confirm(f"Delete all that is held of the study {uid}?", abort=True)
        left = forget(settings, catalogue, uid, getpass.getuser(), reason)
    finally:
        catalogue.close()
    counts = {name: len(getattr(left, name)) for name in ("images", "results", "cases")}
    if json:
        print_json({"study_instance_uid": uid, **counts, "before": left.before and left.before.record()})
        return
    if left.before:
        console.print(f"it was {left.before} already; nothing is recorded", markup=False)
        return
    console.print(
        f"{counts['images']} images, {counts['results']} results and {counts['cases']} training cases are deleted"
    )


@app.command("show")
def show_study(study: StudyArgument, json: JsonOption = False, config: ConfigOption = None) -> None:
    """Show one study and its outcomes (the same as `curie explain`)."""
    explain(study, json=json, config=config)


def explain(study: StudyArgument, json: JsonOption = False, config: ConfigOption = None) -> None:
    """Say for each package whether it ran on a study, or why not, with the time of every step."""
    with reading(config) as (settings, connection):
        told = overview.explain(connection, overview.find_study(connection, study))
        told["outcomes"] += without_route(settings, packages.versions(connection), told)
    for outcome in told["outcomes"]:
        for result in outcome["results"]:
            result["path"] = str(settings.results_dir / result["path"])
        if outcome["results"]:
            outcome["passport"] |= _told_by_itself(Path(outcome["results"][0]["path"]))
    if json:
        print_json(told)
    else:
        _print_explanation(told)


def _told_by_itself(path: Path) -> dict[str, Any]:
    """Return what a stored result says of its making; nothing where retention removed it."""
    from dicom_nodes.provenance_reader import provenance_of

    told = provenance_of(path) if path.exists() else {}
    names = {"software": "software", "weights": "weights_digest", "round": "training_round", "device_uid": "device_uid"}
    return {name: told.get(key, "") for key, name in names.items()}


def reproduce(
    result: Annotated[str, typer.Argument(help="SOP Instance UID of a result.")],
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Run the version that made a result once more on the same images, and compare."""
    from appliance.catalogue import open_catalogue
    from workers.reproduction import reproduce as run_again

    settings = load(config)
    catalogue = open_catalogue(settings.catalogue_url, settings.data_dir)
    try:
        found = run_again(settings, catalogue, result)
    finally:
        catalogue.close()
    if json:
        print_json(asdict(found))
    elif found.identical == found.objects:
        console.print(f"identical to the byte: {found.objects} of {found.objects} objects ({found.engine})")
    else:
        console.print(f"{found.identical} of {found.objects} objects are identical", markup=False)
        console.print(f"then by {found.engine_before}, now by {found.engine}", markup=False)
        for name, dice in found.dice.items():
            console.print(f"  {name}: Dice {dice:.4f}", markup=False)
    if not found.same:
        raise typer.Exit(1)


def without_route(settings: Any, versions: Sequence[VersionRow], told: dict[str, Any]) -> list[dict[str, Any]]:
    """Return an outcome for each active package that no route names."""
    named = {route.package.partition("@")[0] for route in settings.routes}
    return [
        {
            "route": "",
            "package": row.package,
            "version": row.version,
            "outcome": "not_routed",
            "reason": "no route in the settings names this package",
            "results": [],
            "findings": [],
            "notices": [],
            "timings": {},
        }
        for row in versions
        if row.state == "active" and row.package not in named and told["complete"]
    ]


def _print_explanation(told: dict[str, Any]) -> None:
    complete = told["complete"]
    console.print(f"study {told['study_instance_uid']}: {told['instances']} images")
    if told["forgotten"]:
        console.print(f"{_state(told)}: images, results and training cases are deleted", markup=False)
    console.print(_completeness(complete) if complete else "still receiving")
    for asked in told["workitems"]:
        console.print(_workitem(asked), markup=False)
    for outcome in told["outcomes"]:
        _print_outcome(outcome)
    for one in told["corrections"]:
        console.print(_correction(one), markup=False)


def _correction(one: dict[str, Any]) -> str:
    """Say what came back about a result, and what became of it."""
    meanings = {"waiting": "not looked at yet", "kept": "kept as a label", "noted": "noted", "not_kept": "not kept"}
    about = f" about {one['package']}" if one["package"] else ""
    why = f": {one['reason']}" if one["reason"] else ""
    return f"\ncame back{about} {one['received_at']} ({one['sop_instance_uid']}): {meanings[one['state']]}{why}"


def _completeness(complete: dict[str, Any]) -> str:
    evidence = f": {complete['evidence']}" if complete["evidence"] else ""
    return f"complete {complete['at']} ({complete['reason']}){evidence}"


def _print_outcome(outcome: dict[str, Any]) -> None:
    head = f"\n{outcome['package']}@{outcome['version']} by route {outcome['route'] or '(none)'}: {outcome['outcome']}"
    console.print(f"{head}: {outcome['reason']}" if outcome["reason"] else head, markup=False)
    _print_results(outcome)
    for finding in outcome["findings"]:
        for measured in finding["measurements"]:
            console.print(f"  {finding['name']}: {measured['value']:.1f} {measured['unit']}")
    if outcome.get("engine"):
        console.print(f"  computed by {outcome['engine']}", markup=False)
        for one in outcome["skipped"]:
            console.print(f"    not by {one['rung']}: {one['reason']}", markup=False)
    if outcome.get("passport") and outcome["results"]:
        _print_passport(outcome["passport"])
    if outcome["timings"]:
        console.print("  " + ", ".join(f"{key} {value:.2f}" for key, value in outcome["timings"].items()))


def _print_results(outcome: dict[str, Any]) -> None:
    """Print where each result is, and who was told of them."""
    for result in outcome["results"]:
        console.print(f"  {result['role']:4} {result['sop_instance_uid']} {result['state']}")
        for sent in result["destinations"]:
            if sent["answer"]:
                console.print(f"       {sent['destination']} {sent['state']}: {sent['answer']}", markup=False)
    for told in outcome["notices"]:
        console.print(f"  {_notice(told)}", markup=False)


def _notice(told: dict[str, Any]) -> str:
    """Say what somebody was told about a job, beside its results."""
    kinds = {"ian": "availability of the results", "oru": "HL7 message"}
    answer = f": {told['answer']}" if told["answer"] else ""
    return f"{kinds[told['kind']]} to {told['recipient']}: {told['state']}{answer}"


def _workitem(asked: dict[str, Any]) -> str:
    """Say what a worklist asks for, and how far it is."""
    state = f"{asked['state']} as {asked['ending']}" if asked["ending"] else asked["state"]
    why = "; ".join(one for one in (asked["reason"], asked["answer"]) if one)
    head = f"asked for by worklist {asked['worklist']} (workitem {asked['sop_instance_uid']}): {state}"
    return f"{head}: {why}" if why else head


def _print_passport(held: dict[str, Any]) -> None:
    """Print how the results came about, in a few lines."""
    series = {one["series_instance_uid"] for one in held["inputs"]}
    console.print(f"  read {len(held['inputs'])} images of {len(series)} series, input set {held['input_set'][:16]}")
    console.print(f"  package {held['package_digest'][:16]}, weights {held['weights_digest'][:16]}", markup=False)
    signed = f"  signed by {held['signed_by'][:16] or 'nobody'}"
    by = held["promoted"]
    if by:
        second = f" and {by['second_person']}" if by["second_person"] else ""
        signed += f"; made active {by['at']} by {by['by']}{second}: {by['reason']}"
    console.print(signed, markup=False)
    console.print(f"  made by Petite Curie {held['software']} on {held['worker']}, {held['made_at']}", markup=False)
    for one in held["rejected_inputs"][:1]:
        console.print(f"  [red]its images were rejected at the source[/] ({one['code']}, {one['at']})")
