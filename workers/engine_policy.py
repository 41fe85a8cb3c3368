"""What the engine of federated rounds may do on any of our machines: the parts of its policy that both sides share.

Nobody may bring code, run a command, or read a log from afar; jobs may name our own classes and no others.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

CONTROLLER = "workers.coordinator.controller.RoundController"
EXECUTOR = "workers.sidecar.executor.SiteExecutor"
LEAD = "lead"  # the only role there is: the coordinator's own
ORGANISATION = "petite-curie"
PROJECT = "petite-curie"
ENVIRONMENT = {
    "NVFLARE_CLIENT_OUTCOME_WAIT_TIMEOUT": "20",  # seconds a finished job waits for sites that died
    "NVFLARE_TASK_CHECK_INTERVAL": "1",  # seconds between two attempts to deliver an answer
}
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "%(asctime)s %(name)s %(levelname)s %(message)s"}},
    "handlers": {
        "file": {
            "class": "logging.handlers.RotatingFileHandler",
            "formatter": "line",
            "filename": "log.txt",
            "maxBytes": 5_000_000,
            "backupCount": 3,
        }
    },
    "loggers": {"root": {"level": "INFO", "handlers": ["file"]}},
}


def permissions() -> dict[str, Any]:
    """Return the authorization policy: the coordinator submits and ends its own jobs, and that is all."""
    nothing = ("clone_job", "download_job", "operate", "shell_commands", "byoc", "server-predeployed-flwr")
    may = {"submit_job": "any", "manage_job": "n:submitter", "view": "any"}
    return {"format_version": "1.0", "permissions": {LEAD: may | dict.fromkeys(nothing, "none")}}


def write_policy(folder: Path, resources: Mapping[str, Any], privacy: Mapping[str, Any]) -> None:
    """Write the policy files of one machine into its `local` folder; what lay there before is replaced."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    files = {
        "resources.json": {"format_version": 2, "class_list_enforcement_mode": "enforce", **resources},
        "authorization.json": permissions(),
        "privacy.json": privacy,
        "log_config.json": LOGGING,
    }
    for name, content in files.items():
        write_private(folder / name, json.dumps(content, indent=1).encode())


def write_private(path: Path, content: bytes) -> None:
    """Write a file that only its owner may read, whole."""
    partial = path.with_name(f".{path.name}.partial")
    partial.unlink(missing_ok=True)
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
    partial.rename(path)
