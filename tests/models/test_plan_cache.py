"""A plan is kept for exactly what it was built from, read only as it was written, and the oldest give way."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from models.engines.plan_cache import Gpu, Marker, PlanCache, PlanKey

GPU = Gpu("NVIDIA X", "9.0", 132, "580.65", "13.0")
KEY = PlanKey("a" * 64, "f32", "tensorrt", "11.4.0.106", GPU, (1, 4, 8), ("REFIT",))
WEIGHTS, OTHERS = "1" * 64, "2" * 64


def marker(plan: bytes, weights: str = WEIGHTS, key: str = KEY.digest, package: str = "brain f16") -> Marker:
    return Marker(key, weights, hashlib.sha256(plan).hexdigest(), package, refittable=True, parity=[{"case": "1"}])


@pytest.fixture
def cache(tmp_path: Path) -> PlanCache:
    return PlanCache(tmp_path / "engines")


def files(cache: PlanCache, suffix: str) -> list[Path]:
    assert cache.folder is not None
    return sorted(cache.folder.glob(f"*.{suffix}"))


@pytest.mark.parametrize(
    "change",
    [{"structure": "b" * 64}, {"precision": "f16 tool 1.0"}, {"provider": "tensorrt-rtx"}, {"version": "11.4.0.107"},
     {"profile": (1, 4, 4)}, {"flags": ()}]
    + [{"gpu": dataclasses.replace(GPU, **one)} for one in (
        {"name": "NVIDIA Y"}, {"capability": "8.9"}, {"processors": 128}, {"driver": "580.66"}, {"cuda": "12.9"})],
)  # fmt: skip
def test_the_key_changes_with_each_thing_a_plan_was_made_of(change: dict[str, object]) -> None:
    assert dataclasses.replace(KEY, **change).digest != KEY.digest  # type: ignore[arg-type]
    assert dataclasses.replace(KEY).digest == KEY.digest


def test_a_plan_is_ready_for_its_own_weights_alone(cache: PlanCache) -> None:
    cache.keep(b"plan", marker(b"plan"))
    assert cache.ready(KEY.digest, WEIGHTS) == b"plan"
    assert cache.ready(KEY.digest, OTHERS) is None
    assert cache.ready("f" * 64, WEIGHTS) is None
    assert cache.to_refit(KEY.digest) == b"plan"
    assert cache.to_refit("f" * 64) is None


def test_a_plan_is_dropped_by_its_bytes_and_no_other(cache: PlanCache) -> None:
    cache.keep(b"plan", marker(b"plan"))
    cache.keep(b"other", marker(b"other", OTHERS))
    cache.drop_plan("f" * 64, b"plan")
    cache.drop_plan(KEY.digest, b"plan")
    assert cache.ready(KEY.digest, WEIGHTS) is None
    assert cache.ready(KEY.digest, OTHERS) == b"other"


def test_files_are_closed_to_others_and_nothing_half_written_is_left(cache: PlanCache) -> None:
    cache.keep(b"plan", marker(b"plan"))
    assert cache.folder is not None
    assert {path.stat().st_mode & 0o777 for path in cache.folder.iterdir()} == {0o600}
    assert sorted(path.suffix for path in cache.folder.iterdir()) == [".json", ".plan"]
    with pytest.raises(TypeError):
        cache.write("x.plan", "not bytes")  # type: ignore[arg-type]
    assert sorted(path.suffix for path in cache.folder.iterdir()) == [".json", ".plan"]


def test_an_altered_plan_is_never_returned(cache: PlanCache) -> None:
    cache.keep(b"plan", marker(b"plan"))
    files(cache, "plan")[0].write_bytes(b"plaN")
    assert cache.ready(KEY.digest, WEIGHTS) is None
    assert files(cache, "plan") == files(cache, "json") == []


def test_a_plan_without_a_whole_marker_is_never_returned(cache: PlanCache) -> None:
    cache.keep(b"plan", marker(b"plan"))
    (path,) = files(cache, "json")
    whole = path.read_text()
    for text in ("", "[]", "{}", whole[:-9], json.dumps(json.loads(whole) | {"plan_key": "f" * 64})):
        path.write_text(text)
        assert cache.ready(KEY.digest, WEIGHTS) is None
        assert cache.to_refit(KEY.digest) is None
    path.write_text(whole)
    assert cache.ready(KEY.digest, WEIGHTS) == b"plan"


def test_a_marker_under_another_name_is_not_followed(cache: PlanCache) -> None:
    cache.keep(b"plan", marker(b"plan"))
    (path,) = files(cache, "json")
    path.rename(path.with_name(f"{KEY.digest[:32]}-{OTHERS[:32]}.json"))
    assert cache.to_refit(KEY.digest) is None


@pytest.mark.parametrize("how", ["open to others", "a link"])
def test_a_plan_that_others_may_have_written_is_never_returned(cache: PlanCache, tmp_path: Path, how: str) -> None:
    cache.keep(b"plan", marker(b"plan"))
    (path,) = files(cache, "plan")
    if how == "a link":
        path.rename(tmp_path / "elsewhere")
        path.symlink_to(tmp_path / "elsewhere")
    else:
        path.chmod(0o620)
    assert cache.ready(KEY.digest, WEIGHTS) is None


def test_current_and_previous_plan_of_each_package_stay(cache: PlanCache) -> None:
    for n, weights in enumerate("345"):
        cache.keep(b"plan", marker(b"plan", weights * 64))
        os.utime(files(cache, "json")[-1], ns=(n, n))
    cache.keep(b"plan", marker(b"plan", "6" * 64, package="another f16"))
    assert [cache.ready(KEY.digest, weights * 64) for weights in "3456"] == [None, b"plan", b"plan", b"plan"]
    assert len(files(cache, "plan")) == 3


def test_the_plan_used_last_stays(cache: PlanCache) -> None:
    for n, weights in enumerate("34"):
        cache.keep(b"plan", marker(b"plan", weights * 64))
        os.utime(files(cache, "json")[-1], ns=(n, n))
    cache.ready(KEY.digest, "3" * 64)
    cache.keep(b"plan", marker(b"plan", "5" * 64))
    assert [cache.ready(KEY.digest, weights * 64) for weights in "345"] == [b"plan", None, b"plan"]


def test_compiled_kernels_go_with_the_last_plan_of_their_key(cache: PlanCache) -> None:
    from models.engines.plan_cache import kernels_name

    for weights in (WEIGHTS, OTHERS):
        cache.keep(b"plan", marker(b"plan", weights))
    cache.write(kernels_name(KEY.digest), b"kernels")
    cache.drop(KEY.digest, WEIGHTS)
    assert cache.read(kernels_name(KEY.digest)) == b"kernels"
    cache.drop(KEY.digest, OTHERS)
    assert cache.read(kernels_name(KEY.digest)) == b""


def test_a_second_process_waits_for_the_lock_of_the_same_key_only(cache: PlanCache) -> None:
    assert cache.folder is not None
    attempt = "import fcntl, sys; fcntl.flock(open(sys.argv[1]), fcntl.LOCK_EX | fcntl.LOCK_NB)"

    def is_free(key: str) -> bool:
        path = cache.folder / f"{key}.lock"  # type: ignore[operator]
        return subprocess.run([sys.executable, "-c", attempt, path], stderr=subprocess.DEVNULL).returncode == 0

    with cache.locked("other"):
        pass
    with cache.locked("this"):
        assert not is_free("this")
        assert is_free("other")
    assert is_free("this")


def test_without_a_folder_nothing_is_kept() -> None:
    cache = PlanCache(None)
    with cache.locked(KEY.digest):
        cache.keep(b"plan", marker(b"plan"))
    assert cache.ready(KEY.digest, WEIGHTS) is None
    assert cache.to_refit(KEY.digest) is None
