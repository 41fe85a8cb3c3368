"""The doorbell: Celery over Redis/Valkey, with settings under which losing a message costs seconds, never a job.

Messages carry nothing but "ring". Acknowledged early, no result backend, JSON only.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path

from celery import Celery
from celery.exceptions import CeleryError
from kombu.exceptions import KombuError
from redis.exceptions import RedisError

from appliance.settings import Settings

QUEUE = "bell"
LONGEST_SOCKET_PATH = 100  # bytes; the kernel's limit is 108


def embedded_socket(data_dir: Path) -> Path:
    """Return where the embedded broker listens: in data_dir, or in a private folder where that path is too long."""
    inside = data_dir / "broker" / "broker.sock"
    if len(os.fsencode(inside)) <= LONGEST_SOCKET_PATH:
        return inside
    digest = hashlib.sha256(os.fsencode(data_dir)).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"curie-{os.getuid()}-{digest}" / "broker.sock"


def broker_url(settings: Settings) -> str:
    """Return the URL of the broker, the embedded one's included."""
    if settings.broker.url != "embedded":
        return settings.broker.url
    return f"redis+socket://{embedded_socket(settings.data_dir)}"


def make_app(url: str) -> Celery:
    """Return the Celery application on this broker."""
    app = Celery("curie", broker=url)
    app.conf.update(
        task_ignore_result=True,
        result_backend=None,
        task_acks_late=False,
        task_reject_on_worker_lost=False,
        worker_prefetch_multiplier=1,
        worker_concurrency=1,
        task_publish_retry=False,
        task_serializer="json",
        accept_content=["json"],
        task_default_queue=QUEUE,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_enable_remote_control=False,
        worker_send_task_events=False,
        worker_soft_shutdown_timeout=0,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        broker_transport_options={
            "visibility_timeout": 3600,
            "unacked_restore_interval": 10,
            "unacked_restore_throttle": 1,
            "socket_timeout": 5,
            "socket_connect_timeout": 3,
            "max_retries": 1,  # of ringing: dispatch never stands still for a broker that is away
            "interval_start": 0,
            "interval_step": 0.1,
            "socket_keepalive": True,
            "health_check_interval": 30,
        },
    )
    return app


def ring(app: Celery) -> bool:
    """Ring the bell once; False when the broker is away (the workers' own timer runs instead)."""
    try:
        app.send_task("curie.drain", queue=QUEUE, expires=30)
    except (CeleryError, KombuError, RedisError, OSError):
        return False
    return True
