"""The files of a MONAI bundle, read as data. It must never run, import or unpickle anything of a bundle.

Only three files are opened, none through a link: configs/metadata.json, configs/inference.json, models/model.pt. Of
inference.json only the keys that a package needs are looked at (network_def, preprocessing, inferer, postprocessing
and what they refer to by a plain `@key` or `@key::part`, also written `@key#part`). Within these a Python expression
("$…"), a macro ("%…") or anything else that is no literal is refused, with the file, the key and the reason.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from appliance.errors import Missing, PackageRefused
from models.package import MAX_BYTES, MAX_JSON_BYTES

METADATA, INFERENCE, WEIGHTS = "configs/metadata.json", "configs/inference.json", "models/model.pt"
REFERENCE = re.compile(r"@([A-Za-z_]\w*(?:(?:::|#)\w+)*)")
DEEPEST = 32  # of references to references, and of lists within lists
TARGET = "_target_"
DESCRIPTION = "_desc_"
DISABLED = "_disabled_"
UNREAD = {"SaveImaged"}  # where results went on a disk: its arguments say nothing about the model
BACK_REFERENCE = {("Invertd", "transform"): "@preprocessing"}  # names steps, not a value


@dataclass(frozen=True)
class Component:
    """One thing that a bundle would build: a class's name, literal arguments, and where it stands."""

    name: str
    arguments: Mapping[str, Any]
    where: str


class Bundle:
    """The two JSON files of a bundle. `left_out`: keys that a person said are not to be read."""

    def __init__(self, folder: Path, left_out: frozenset[str] = frozenset()) -> None:
        if not folder.is_dir():
            raise Missing(f"there is no bundle at {folder}: name its folder, the one that holds configs/")
        self.folder = folder
        self.metadata = read_json(folder, METADATA)
        self._inference = read_json(folder, INFERENCE)
        self._left_out = frozenset(one.replace("#", "::") for one in left_out)
        self._met: set[str] = set()

    def component(self, *names: str) -> Component:
        """Return the component that stands under the first of `names` that is there."""
        for name in names:
            value = self._inference.get(name)
            if isinstance(value, dict) and TARGET in value:
                found = self.resolved(value, name)
                if found is None:
                    raise refused(name, "is disabled or left out; a bundle for import needs it")
                return self._component(found, name)
        raise refused(names[0], "is not there, or names no _target_; a bundle for import needs it")

    def components(self, name: str) -> list[Component]:
        """Return the components of a chain of transforms, in order; none if the key is absent."""
        if name not in self._inference:
            return []
        return list(self._chain(self.resolved(self._inference[name], name), name))

    def check_left_out(self) -> None:
        """Raise PackageRefused for a key that a person wanted left out and that was never met."""
        stray = sorted(self._left_out - self._met)
        if stray:
            raise refused(stray[0], "was to be left out, but nothing that is read stands there")

    def _chain(self, value: Any, where: str) -> Iterator[Component]:
        if value is None:
            return
        if isinstance(value, list):
            for n, one in enumerate(value):
                yield from self._chain(one, f"{where}::{n}")
            return
        if not isinstance(value, dict) or TARGET not in value:
            raise refused(where, "is neither a component with a _target_ nor a list of such")
        found = self._component(value, where)
        if found.name == "Compose":
            yield from self._chain(found.arguments.get("transforms", []), f"{where}::transforms")
        else:
            yield found

    def _component(self, value: Mapping[str, Any], where: str) -> Component:
        special = [key for key in value if key.startswith("_") and key not in (TARGET, DESCRIPTION)]
        if special:
            raise refused(f"{where}::{special[0]}", "is not understood; take it out of a copy of the bundle")
        arguments = {key: one for key, one in value.items() if not key.startswith("_")}
        return Component(plain_name(value[TARGET], where), arguments, where)

    def resolved(self, value: Any, where: str, depth: int = 0) -> Any:
        """Return `value` with references replaced by the literals they name; PackageRefused for anything else."""
        if depth > DEEPEST:
            raise refused(where, "refers to itself, or lies too deep")
        if where in self._left_out:
            self._met.add(where)
            return None
        if isinstance(value, str):
            return self._word(value, where, depth)
        if isinstance(value, list):
            return [self.resolved(one, f"{where}::{n}", depth + 1) for n, one in enumerate(value)]
        if isinstance(value, dict):
            return self._entries(value, where, depth)
        return value

    def _entries(self, value: dict[str, Any], where: str, depth: int) -> Any:
        if self._disabled(value, where, depth):
            return None
        name = str(value.get(TARGET, "")).rpartition(".")[2]
        if name in UNREAD:
            refuse_expressions(value, where)
            return {TARGET: value[TARGET]}
        return {
            key: one if BACK_REFERENCE.get((name, key)) == one else self.resolved(one, f"{where}::{key}", depth + 1)
            for key, one in value.items()
            if key != DISABLED
        }

    def _disabled(self, value: dict[str, Any], where: str, depth: int) -> bool:
        """Return whether a bundle says that a component is not there: true or "true", as MONAI reads it."""
        if DISABLED not in value:
            return False
        found = self.resolved(value[DISABLED], f"{where}::{DISABLED}", depth + 1)
        word = found.strip().lower() if isinstance(found, str) else found
        if word is True or word == "true":
            return True
        if word is False or word == "false":
            return False
        raise refused(f"{where}::{DISABLED}", "is neither true nor false")

    def _word(self, value: str, where: str, depth: int) -> Any:
        refuse_expression(value, where)
        if not value.startswith("@"):
            return value
        match = REFERENCE.fullmatch(value)
        if not match:
            raise refused(where, f"{shown(value)} is not a plain reference to one key")
        parts = re.split(r"::|#", match[1])
        found: Any = self._inference
        for part in parts:
            if isinstance(found, list) and part.isdecimal() and int(part) < len(found):
                found = found[int(part)]
            elif isinstance(found, dict) and part in found:
                found = found[part]
            else:
                raise refused(where, f"{shown(value)} names nothing")
        return self.resolved(found, "::".join(parts), depth + 1)


def plain_name(target: Any, where: str) -> str:
    """Return the class a `_target_` names, without its module; PackageRefused unless it is one of MONAI's."""
    if not isinstance(target, str):
        raise refused(where, "its _target_ is no name")
    module, _, name = target.rpartition(".")
    if module and module.partition(".")[0] != "monai":
        raise refused(where, f"{shown(target)} is code of its own, which is never run")
    return name


def refuse_expression(value: str, where: str) -> None:
    """Raise PackageRefused for a Python expression or a macro."""
    if value.startswith("$"):
        raise refused(
            where,
            f"{shown(value)} is a Python expression, which is never run; write the literal, or --leave-out the step",
        )
    if value.startswith("%"):
        raise refused(where, f"{shown(value)} is a macro; write what it stands for")


def refuse_expressions(value: Any, where: str) -> None:
    """Raise PackageRefused for an expression anywhere within `value`."""
    if isinstance(value, str):
        refuse_expression(value, where)
    elif isinstance(value, list):
        for n, one in enumerate(value):
            refuse_expressions(one, f"{where}::{n}")
    elif isinstance(value, dict):
        for key, one in value.items():
            refuse_expressions(one, f"{where}::{key}")


def refused(where: str, why: str, file: str = INFERENCE) -> PackageRefused:
    """Return the error that says what of a bundle cannot be imported."""
    return PackageRefused(f"{file}: {where}: {why}")


def shown(value: str) -> str:
    """Return a value as a message shows it: quoted, and not for ever."""
    return repr(value if len(value) <= 60 else value[:57] + "…")


# --- files ---


def open_plain(folder: Path, name: str, most_bytes: int) -> int:
    """Return a descriptor of a plain file below `folder`, reached through no link; Missing or PackageRefused."""
    parts = PurePosixPath(name).parts
    at = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for part in parts[:-1]:
            within = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=at)
            os.close(at)
            at = within
        found = os.open(parts[-1], os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=at)
    except FileNotFoundError:
        raise _absent(folder, name) from None
    except OSError as error:
        raise PackageRefused(f"{name}: a bundle's files must be plain, no links ({error.strerror})") from None
    finally:
        os.close(at)
    kept = os.fstat(found)
    if stat.S_ISREG(kept.st_mode) and kept.st_size <= most_bytes:
        return found
    os.close(found)
    raise PackageRefused(f"{name}: is no plain file, or larger than {most_bytes} bytes")


def _absent(folder: Path, name: str) -> Exception:
    other = next(
        (path.name for end in ("yaml", "yml") if (path := (folder / name).with_suffix(f".{end}")).exists()), ""
    )
    if other:
        return PackageRefused(f"configs/{other}: only JSON is read; save it as {name}")
    return Missing(f"{folder} holds no {name}; is it a MONAI bundle?")


def read_json(folder: Path, name: str) -> dict[str, Any]:
    """Return one of the bundle's JSON files; PackageRefused if it is no object, or says a key twice."""
    with os.fdopen(open_plain(folder, name, MAX_JSON_BYTES), "rb") as file:
        raw = file.read(MAX_JSON_BYTES + 1)
    try:
        found = json.loads(raw, object_pairs_hook=_once, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise PackageRefused(f"{name}: cannot be read as JSON ({next(iter(str(error).splitlines()), '')})") from None
    if not isinstance(found, dict):
        raise PackageRefused(f"{name}: holds no JSON object")
    return found


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice")
    return found


def _no_number(word: str) -> None:
    raise ValueError(f"{word} is no number")


def open_weights(folder: Path) -> int:
    """Return a descriptor of the bundle's weights."""
    return open_plain(folder, WEIGHTS, MAX_BYTES)
