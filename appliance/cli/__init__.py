"""`curie noun verb`. Each command is thin: it reads, calls, prints. Heavy imports stay inside the commands."""

from __future__ import annotations

import sys

import typer
from typer.exceptions import TyperException

from appliance.cli import (
    audit,
    catching_up,
    conformance,
    destinations,
    federation,
    jobs,
    keeping,
    model_life,
    model_making,
    models,
    operate,
    rehearsing,
    routes,
    studies,
    tls,
    training_data,
    users,
)
from appliance.cli.output import complain
from appliance.errors import CurieError, Missing, SettingsError
from appliance.supervisor import ChildRefused

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Petite Curie: the AI appliance that stands beside the PACS.",
)
app.command()(operate.init)
app.command()(operate.up)
app.command()(operate.run)
app.command()(operate.demo)
app.command()(operate.status)
app.command()(operate.doctor)
app.command()(studies.explain)
app.command()(studies.reproduce)
app.command()(rehearsing.rehearse)
app.command("catch-up")(catching_up.catch_up)
app.command()(keeping.backup)
app.command()(keeping.restore)
app.command()(keeping.downgrade)
app.command()(conformance.conformance)
app.command("request-form")(conformance.request_form)
app.add_typer(studies.app, name="studies")
app.add_typer(jobs.app, name="jobs")
app.add_typer(routes.app, name="routes")
app.add_typer(destinations.app, name="destinations")
app.add_typer(models.app, name="models")
model_life.add_to(models.app)
model_making.add_to(models.app)
app.add_typer(federation.app, name="federation")
training_data.add_to(federation.app)
app.add_typer(audit.app, name="audit")
app.add_typer(tls.app, name="tls")
app.add_typer(users.app, name="users")


def exit_code(error: CurieError) -> int:
    """Return 2 for settings, 3 for what is missing, a child's own code, else 1."""
    if isinstance(error, ChildRefused):
        return error.code
    if isinstance(error, SettingsError):
        return 2
    return 3 if isinstance(error, Missing) else 1


def explain(error: CurieError) -> int:
    """Say on stderr what is wrong, in one line, and return the exit code."""
    if not isinstance(error, ChildRefused):
        complain(str(error))
    return exit_code(error)


def not_done(error: OSError) -> str:
    """Return in one line what the operating system did not let us do, and where to look."""
    where = f"{error.filename}: " if error.filename else ""
    return f"{where}{error.strerror or error}; look at owner and rights of the files, and at the space on the disk"


def main() -> None:
    """Run one command; every error a person can meet is one line on stderr, and an exit code."""
    try:
        sys.exit(app(standalone_mode=False) or 0)
    except CurieError as error:
        sys.exit(explain(error))
    except (typer.Abort, KeyboardInterrupt):
        sys.exit(130)
    except TyperException as error:
        in_words = getattr(error, "format_message", error.__str__)
        complain(f"{in_words()} Try `curie --help`.")
        sys.exit(2)
    except BrokenPipeError:
        sys.exit(0)
    except OSError as error:
        sys.exit(explain(CurieError(not_done(error))))
