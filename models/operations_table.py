"""The table of operations in docs/models.md, written from models/operations.py: `python -m models.operations_table`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_args

from models.operations import Inference, Postprocess, Preprocess

KINDS: dict[str, Any] = {"preprocess": Preprocess, "inference": Inference, "postprocess": Postprocess}
TAGS = ("op", "mode")
HEAD = "| in | `op` or `mode` | arguments (default) | does |\n|---|---|---|---|"


def rows() -> Iterator[str]:
    """Yield one line of Markdown for each operation."""
    for kind, union in KINDS.items():
        for operation in get_args(get_args(union)[0]):
            fields = dict(operation.model_fields)
            (name,) = next(get_args(fields.pop(tag).annotation) for tag in TAGS if tag in fields)
            told = ", ".join(argument(key, field) for key, field in fields.items())
            yield f"| {kind} | `{name}` | {told} | {' '.join((operation.__doc__ or '').split())} |"


def argument(key: str, field: Any) -> str:
    """Return an argument with its default where it has one."""
    if field.is_required():
        return f"`{key}`"
    value = "all" if key == "channels" else field.default
    return f"`{key}` ({str(value).lower() if isinstance(value, bool) else value})"


def table() -> str:
    """Return the whole table."""
    return "\n".join([HEAD, *rows()])


if __name__ == "__main__":
    print(table())
