"""`curie jobs …`: what is queued, what ran, what failed and why."""

from __future__ import annotations

import getpass
from typing import Annotated

import typer

from appliance.catalogue import orders, overview
from appliance.catalogue.connection import now
from appliance.cli.output import ConfigOption, JsonOption, console, print_json, print_table, reading, writing
from appliance.errors import SettingsError
from appliance.job import STATES

app = typer.Typer(no_args_is_help=True, help="Jobs: one package on one set of images.")
JobArgument = Annotated[str, typer.Argument(help="Job id, as `curie jobs list` shows it.")]


@app.command("list")
def list_jobs(
    state: Annotated[str | None, typer.Option(help="Only jobs in this state.")] = None,
    limit: Annotated[int, typer.Option(help="At most so many, newest first.")] = 50,
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Show the latest jobs."""
    if state is not None and state not in STATES:
        raise SettingsError(f"--state {state} is not a job state; there are: {', '.join(STATES)}")
    with reading(config) as (_, connection):
        found = overview.jobs(connection, state, limit)
    if json:
        print_json(found)
        return
    rows = [(j["id"], f"{j['package']}@{j['version']}", j["state"], j["created_at"], j["reason"]) for j in found]
    print_table(("job", "package", "state", "created", "reason"), rows)


@app.command("show")
def show_job(job: JobArgument, json: JsonOption = False, config: ConfigOption = None) -> None:
    """Show one job with its results and every event."""
    with reading(config) as (_, connection):
        record = overview.job_record(connection, job)
    if json:
        print_json(record)
        return
    for key in ("id", "study_instance_uid", "package", "version", "state", "reason", "attempts", "worker", "engine"):
        console.print(f"{key}: {record[key]}", markup=False)
    for happened in record["events"]:
        detail = {k: v for k, v in happened.items() if k not in ("at", "event")}
        console.print(f"  {happened['at']} {happened['event']} {detail or ''}", markup=False)


@app.command("retry")
def retry_job(job: JobArgument, json: JsonOption = False, config: ConfigOption = None) -> None:
    """Queue a failed, unsuitable or cancelled job again; what a destination or recipient refused is sent again."""
    with writing(config) as connection:
        state = orders.retry(connection, job, getpass.getuser(), now())
    print_json({"id": job, "state": state}) if json else console.print(f"job {job} is {state}")


@app.command("cancel")
def cancel_job(job: JobArgument, json: JsonOption = False, config: ConfigOption = None) -> None:
    """Cancel a queued or running job; a running one ends within seconds."""
    with writing(config) as connection:
        orders.cancel(connection, job, getpass.getuser(), now())
    print_json({"id": job, "state": "cancelled"}) if json else console.print(f"job {job} is cancelled")
