"""The arguments of one component, each asked for by name: what nobody asked for is refused, never ignored."""

from __future__ import annotations

import math
from typing import Any

from appliance.errors import PackageRefused
from models.bundle.reading import Component, refused

NEEDED = object()


class Arguments:
    """What is left to be asked for of one component."""

    def __init__(self, component: Component) -> None:
        self.component = component
        self._left = dict(component.arguments)

    def wrong(self, why: str, name: str = "") -> PackageRefused:
        """Return the error that says what is wrong with an argument, or with the component itself."""
        where = f"{self.component.where}::{name}" if name else self.component.where
        return refused(where, f"{self.component.name}: {why}")

    def take(self, name: str, default: Any = NEEDED) -> Any:
        """Return an argument."""
        if name not in self._left and default is NEEDED:
            raise self.wrong(f"needs {name}")
        return self._left.pop(name, default)

    def number(self, name: str, default: Any = NEEDED) -> float:
        """Return an argument that is a finite number."""
        found = self.take(name, default)
        if isinstance(found, bool) or not isinstance(found, int | float) or not math.isfinite(found):
            raise self.wrong("is no number", name)
        return float(found)

    def flag(self, name: str, default: bool) -> bool:
        """Return an argument that is true or false; a list of one holds it too."""
        found = self.take(name, default)
        if isinstance(found, list) and len(found) == 1:
            found = found[0]
        if not isinstance(found, bool):
            raise self.wrong("is neither true nor false", name)
        return found

    def numbers(self, name: str, count: int) -> list[float]:
        """Return an argument of `count` numbers; one alone stands for all."""
        found = self.take(name)
        several = found if isinstance(found, list) else [found] * count
        if len(several) != count or any(isinstance(one, bool) or not isinstance(one, int | float) for one in several):
            raise self.wrong(f"is not {count} numbers", name)
        return [float(one) for one in several]

    def labels(self, name: str) -> list[int] | None:
        """Return an argument of one label or several; None where it is absent."""
        found = self.take(name, None)
        several = [found] if isinstance(found, int) else found
        if several is None:
            return None
        if not isinstance(several, list) or not all(isinstance(one, int) and one > 0 for one in several):
            raise self.wrong("is not a list of labels", name)
        return several

    def expect(self, name: str, *allowed: Any, default: Any) -> None:
        """Raise PackageRefused unless an argument has one of the values whose meaning is kept."""
        found = self.take(name, default)
        if isinstance(found, list) and len(found) == 1:
            found = found[0]
        if not any(found == one and type(found) is type(one) for one in allowed):
            kept = " or ".join("null" if one is None else repr(one) for one in allowed)
            raise self.wrong(f"{found!r} has no counterpart in a package; {kept} has", name)

    def pass_over(self, *names: str) -> None:
        """Drop arguments that change no number: how files are read, on which device, with which metadata."""
        for name in names:
            self._left.pop(name, None)

    def done(self) -> None:
        """Raise PackageRefused for an argument that nobody asked for."""
        if self._left:
            raise self.wrong("is not known, so what it would change is not known either", min(self._left))
