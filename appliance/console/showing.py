"""Templates → pages. Everything that comes from outside is escaped; nothing here knows what a page says."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.responses import HTMLResponse, Response

from appliance import __version__
from appliance.catalogue.connection import now
from appliance.console import charts
from appliance.console.access import may

TEMPLATES = Path(__file__).parent / "templates"
STATIC = Path(__file__).parent / "static"
SHOWN_END = 3  # characters of a masked number that are shown, where it is long enough
# state → the sign before its name: no meaning by colour alone
SIGNS = {
    "completed": "✓", "committed": "✓", "delivered": "✓", "active": "✓", "healthy": "✓", "published": "✓",
    "failed": "✕", "rejected": "✕", "away": "✕", "refused": "✕", "conflict": "✕", "fell_back": "✕",
    "unsuitable": "○", "not_routed": "○", "cancelled": "○", "superseded": "○", "withdrawn": "○", "retired": "○",
    "forgotten": "○",
    "queued": "…", "pending": "…", "waiting": "…", "receiving": "…", "running": "▸", "delivering": "▸",
    "shadow": "◐", "candidate": "◔", "installed": "◌", "complete": "✓", "ready": "✓", "promoted": "✓",
}  # fmt: skip
NAMES = {"not_routed": "not routed", "fell_back": "fell back"}
GOOD = {"completed", "committed", "delivered", "active", "healthy", "published", "complete", "promoted", "ready"}
BAD = {"failed", "rejected", "away", "refused", "conflict", "fell_back"}


class Showing:
    """The templates, with the words and numbers that all of them use."""

    def __init__(self, appliance_name: str) -> None:
        self._templates = Environment(
            loader=FileSystemLoader(TEMPLATES),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.filters |= {
            "when": when, "ago": ago, "seconds": seconds, "masked": masked, "sign": sign, "tone": tone,
            "named": named, "number": number,
        }  # fmt: skip
        self._templates.globals |= {"charts": charts, "appliance": appliance_name, "version": __version__, "may": may}

    def text(self, template: str, values: Mapping[str, Any]) -> str:
        """Return a template with its values."""
        return self._templates.get_template(template).render(**values)

    def page(self, template: str, status: int = 200, **values: Any) -> Response:
        """Return a page; nobody but this browser may keep it."""
        return HTMLResponse(self.text(template, values), status, {"Cache-Control": "no-store"})


def when(at: datetime | str | None) -> str:
    """Return a moment in the clock of this appliance, to the second."""
    if isinstance(at, str):
        at = datetime.fromisoformat(at)
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).astimezone().strftime("%Y-%m-%d %H:%M:%S") if at else "–"


def ago(at: datetime | str | None) -> str:
    """Return how long ago a moment was, in its largest unit."""
    if isinstance(at, str):
        at = datetime.fromisoformat(at)
    return seconds(max(0.0, (now() - at).total_seconds())) if at else "–"


def seconds(length: float | None) -> str:
    """Return a duration as a person says it: 0.42 s, 12 s, 3 min, 5 h, 2 days."""
    if length is None:
        return "–"
    for most, unit, name in ((10, 1, "s"), (120, 1, "s"), (7200, 60, "min"), (172800, 3600, "h")):
        if length < most:
            return f"{length / unit:.{2 if most == 10 else 0}f} {name}"
    return f"{length / 86400:.0f} days"


def masked(value: str) -> str:
    """Return a number with its end alone; nothing of a short one."""
    shown = value[-min(SHOWN_END, len(value) // 3) :] if len(value) >= SHOWN_END else ""
    return f"•••{shown}" if value else "–"


def sign(state: str) -> str:
    """Return the sign of a state."""
    return SIGNS.get(state, "·")


def tone(state: str) -> str:
    """Return good, bad or plain: which colour a state has beside its sign and name."""
    return "good" if state in GOOD else "bad" if state in BAD else "plain"


def named(state: str) -> str:
    """Return a state in words."""
    return NAMES.get(state, state.replace("_", " "))


def number(value: float | None) -> str:
    """Return a figure with four digits."""
    return "–" if value is None else f"{value:.4g}"
