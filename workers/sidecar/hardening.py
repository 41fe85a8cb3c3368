"""The engine's folder at a site, written anew each start by its own software: what a job may do is decided here.

No code comes with a job, jobs name our one class, no log leaves, everything lies under data_dir, and all listening is
on loopback.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from appliance.errors import Missing
from appliance.settings import Settings
from workers.engine_policy import EXECUTOR, PROJECT, write_policy, write_private
from workers.sidecar.places import Places

CREDENTIALS = ("rootCA.pem", "client.crt", "client.key")
FILTER = "workers.sidecar.executor.OnlyContent"


def kit_of(folder: Path) -> dict[str, str]:
    """Return what the kit in a folder says. Raises Missing."""
    try:
        told: dict[str, str] = json.loads((folder / "kit.json").read_text())
    except (OSError, ValueError):
        raise Missing(f"no kit lies in {folder}: `curie federation join KIT` puts it there") from None
    return told


def write_site(settings: Settings) -> tuple[str, Path]:
    """Write the engine's folder; returns the site's name and the folder. Raises Missing where there is no kit."""
    assert settings.federation is not None
    kit = kit_of(settings.federation.kit)
    place = Places(settings.data_dir).engine
    shutil.rmtree(place, ignore_errors=True)  # jobs of earlier runs
    (place / "startup").mkdir(parents=True, exist_ok=True, mode=0o700)
    for name in CREDENTIALS:
        write_private(place / "startup" / name, (settings.federation.kit / name).read_bytes())
    client = client_file(kit["site"], settings.federation.target, kit["server"])
    write_private(place / "startup" / "fed_client.json", json.dumps(client, indent=1).encode())
    guard = {"name": "site", "task_result_filters": [{"path": FILTER}]}
    write_policy(place / "local", resources(), {"scopes": [guard], "default_scope": "site"})
    return kit["site"], place


def client_file(site: str, target: str, server: str) -> dict[str, Any]:
    """Return the engine's description of whom to call, and as whom."""
    return {
        "format_version": 2,
        "servers": [{"name": PROJECT, "service": {"target": target, "scheme": "grpc"}, "identity": server}],
        "client": {
            "ssl_private_key": "client.key",
            "ssl_cert": "client.crt",
            "ssl_root_cert": "rootCA.pem",
            "fqsn": site,
            "is_leaf": True,
            "connection_security": "mtls",
        },
    }


def resources() -> dict[str, Any]:
    """Return the site's parts: no log streamer, jobs as processes."""
    return {
        "class_allow_list": [EXECUTOR],
        "allow_log_streaming": False,
        "client": {"retry_timeout": 30, "compression": "Gzip", "communication_timeout": 120.0},
        "components": [
            {
                "id": "resource_manager",
                "path": "nvflare.app_common.resource_managers.gpu_resource_manager.GPUResourceManager",
                "args": {"num_of_gpus": 0, "mem_per_gpu_in_GiB": 0, "expiration_period": 300},
            },
            {
                "id": "resource_consumer",
                "path": "nvflare.app_common.resource_consumers.gpu_resource_consumer.GPUResourceConsumer",
                "args": {},
            },
            {
                "id": "process_launcher",
                "path": "nvflare.app_common.job_launcher.client_process_launcher.ClientProcessJobLauncher",
                "args": {},
            },
        ],
    }
