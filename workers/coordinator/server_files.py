"""The engine's folders at the central side: its server, and the account that starts jobs. Written anew each start.

Nothing lies outside of data_dir, and the policy is ours, whatever stood there.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from appliance.federation_settings import Coordinator
from workers.coordinator.authority import RENEW_DAYS, Authority, Credential, days_left
from workers.engine_policy import CONTROLLER, LEAD, ORGANISATION, PROJECT, write_policy, write_private

SERVER = "coordinator"  # name in the server's certificate
ACCOUNT = "curie@coordinator"


def folder_of(data_dir: Path) -> Path:
    """Return where all of the central side but the lineage lies."""
    return data_dir / "coordinator"


def write_server(data_dir: Path, settings: Coordinator) -> Path:
    """Write the server's folder and return it."""
    root, place = folder_of(data_dir), folder_of(data_dir) / "server"
    authority = Authority(root / "authority")
    hosts = tuple(dict.fromkeys((settings.host, "localhost", "127.0.0.1")))
    _clear(place)
    _renew(authority, place / "startup", "server", (SERVER, hosts, ""))
    service = {"target": f"0.0.0.0:{settings.port}", "scheme": "grpc"}
    server = {
        "name": PROJECT, "service": service, "identity": SERVER, "admin_server": SERVER, "admin_port": settings.port,
        "ssl_private_key": "server.key", "ssl_cert": "server.crt", "ssl_root_cert": "rootCA.pem",
        "connection_security": "mtls",
    }  # fmt: skip
    write_private(place / "startup" / "fed_server.json", _json({"format_version": 2, "servers": [server]}))
    write_policy(place / "local", resources(place), {"scopes": [{"name": "rounds"}], "default_scope": "rounds"})
    return place


def resources(place: Path) -> dict[str, Any]:
    """Return the server's parts: storage in its own folder, jobs as processes, no receiver of logs."""
    storage = "nvflare.app_common.storages.filesystem_storage.FilesystemStorage"
    persistor = "nvflare.app_common.state_persistors.storage_state_persistor.StorageStatePersistor"
    snapshots = {"path": storage, "args": {"root_dir": str(place / "snapshots"), "uri_root": "/"}}
    return {
        "class_allow_list": [CONTROLLER],
        "allow_log_streaming": False,
        "servers": [
            {"admin_storage": "transfer", "max_num_clients": 1000, "heart_beat_timeout": 60, "admin_timeout": 10.0}
        ],
        "snapshot_persistor": {"path": persistor, "args": {"uri_root": "/", "storage": snapshots}},
        "components": [
            {
                "id": "job_scheduler",
                "path": "nvflare.app_common.job_schedulers.job_scheduler.DefaultJobScheduler",
                "args": {"max_jobs": 4, "min_schedule_interval": 2.0},
            },
            {
                "id": "job_manager",
                "path": "nvflare.apis.impl.job_def_manager.SimpleJobDefManager",
                "args": {"uri_root": str(place / "jobs"), "job_store_id": "job_store"},
            },
            {"id": "job_store", "path": storage, "args": {}},
            {
                "id": "process_launcher",
                "path": "nvflare.app_common.job_launcher.server_process_launcher.ServerProcessJobLauncher",
                "args": {},
            },
        ],
    }


def write_account(data_dir: Path, settings: Coordinator) -> Path:
    """Write the folder of the account that starts jobs, and return it."""
    root, place = folder_of(data_dir), folder_of(data_dir) / "account"
    _renew(Authority(root / "authority"), place / "startup", "client", (ACCOUNT, (), LEAD))
    admin = {
        "project_name": PROJECT, "username": ACCOUNT, "server_identity": SERVER, "scheme": "grpc", "host": "localhost",
        "port": settings.port, "connection_security": "mtls", "uid_source": "user_input", "with_file_transfer": True,
        "upload_dir": "transfer", "download_dir": "transfer", "client_key": "client.key", "client_cert": "client.crt",
        "ca_cert": "rootCA.pem",
    }  # fmt: skip
    write_private(place / "startup" / "fed_admin.json", _json({"format_version": 1, "admin": admin}))
    limits = {"idle_timeout": 900.0, "login_timeout": 10.0, "with_debug": False, "authenticate_msg_timeout": 2.0}
    (place / "local").mkdir(exist_ok=True, mode=0o700)
    write_private(place / "local" / "resources.json", _json({"format_version": 1, "admin": limits}))
    (place / "transfer").mkdir(exist_ok=True, mode=0o700)
    return place


def _clear(place: Path) -> None:
    """Remove jobs of earlier runs: the lineage knows what is to be done."""
    for path in place.iterdir() if place.is_dir() else ():
        if path.is_dir() and path.name not in ("startup", "local"):
            shutil.rmtree(path, ignore_errors=True)


def _renew(authority: Authority, folder: Path, name: str, whose: tuple[str, tuple[str, ...], str]) -> None:
    """Write key and certificate where there are none, or where the certificate ends soon."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_private(folder / "rootCA.pem", authority.root)
    certificate = folder / f"{name}.crt"
    if certificate.exists() and days_left(certificate) > RENEW_DAYS:
        return
    made: Credential = authority.issue(whose[0], ORGANISATION, whose[1], whose[2])
    write_private(folder / f"{name}.key", made.key)
    write_private(certificate, made.certificate)


def _json(content: Any) -> bytes:
    return json.dumps(content, indent=1).encode()
