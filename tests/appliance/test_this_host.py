"""What the driver says of GPUs is read as it is, and a driver that says nothing, or nonsense, breaks nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from appliance import this_host
from appliance.this_host import MIB, GpuMemory, GpuWatch, gpu_memory, gpus


def driver(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Put a program in the place of nvidia-smi."""
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    (folder / "version").write_text("580.1")
    monkeypatch.setattr(this_host, "DRIVER", folder / "version")
    monkeypatch.setenv("PATH", str(folder), prepend=":")


TWO = """case "$1" in
*name*) echo "NVIDIA L4, 580.1, 23034 MiB" ;;
*) echo "0, 1024, 23034"; echo "1, 17, 23034" ;;
esac"""


def test_name_and_memory_of_each_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driver(tmp_path, monkeypatch, TWO)
    assert gpus() == ["NVIDIA L4, 580.1, 23034 MiB"]
    assert gpu_memory() == [GpuMemory(0, 1024 * MIB, 23034 * MIB), GpuMemory(1, 17 * MIB, 23034 * MIB)]


@pytest.mark.parametrize("script", ["exit 9", "echo '0, [N/A], [N/A]'", "echo 'No devices were found'"])
def test_a_driver_that_says_nothing_of_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    driver(tmp_path, monkeypatch, script)
    assert gpu_memory() == []


def test_a_heartbeat_asks_the_driver_once_a_minute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driver(tmp_path, monkeypatch, f"{TWO}\necho asked >> {tmp_path}/asked")
    watch = GpuWatch()
    assert watch.told() == watch.told()
    assert [one["used_bytes"] for one in watch.told()["gpus"]] == [1024 * MIB, 17 * MIB]
    assert (tmp_path / "asked").read_text().count("asked") == 1
