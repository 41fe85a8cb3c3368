"""JSON log lines on stderr. It must never let a patient's name, or a line break from a peer, into a line."""

from __future__ import annotations

import logging
import sys
import warnings
from contextlib import suppress
from typing import TextIO, cast

import structlog

FOREIGN = ("pydicom", "pynetdicom", "highdicom", "pylibjpeg", "python_multipart", "uvicorn", "asyncio")


class _Lines:
    """stderr, but for its errors: a full disk or a closed pipe must not stop what is being logged."""

    def write(self, text: str) -> int:
        with suppress(OSError, ValueError):
            sys.stderr.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            sys.stderr.flush()


def start_logging(process: str) -> None:
    """Send this process's log lines to stderr as JSON, and keep foreign libraries' texts out of them.

    pydicom's and pynetdicom's own messages quote attribute values, the HTTP libraries' what a peer wrote: they are
    dropped altogether; what matters is logged by our own code with internal ids.
    """
    warnings.simplefilter("ignore")
    for foreign in FOREIGN:
        logging.getLogger(foreign).handlers = []
        logging.getLogger(foreign).propagate = False
        logging.getLogger(foreign).setLevel(logging.CRITICAL + 1)

    def named(_logger: object, _method: str, line: structlog.typing.EventDict) -> structlog.typing.EventDict:
        return {"process": process, **line}

    structlog.configure(
        processors=[
            named,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.PrintLoggerFactory(cast(TextIO, _Lines())),
    )


def logger() -> structlog.typing.FilteringBoundLogger:
    """Return the logger; give ids and counts as keyword arguments, never names or dates of patients."""
    return structlog.get_logger()  # type: ignore[no-any-return]
