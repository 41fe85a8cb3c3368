"""A bundle is installed without any network, by whoever signed it and as it was signed; else one line says why not."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from deploy.sign import SIGNATURE, SUMS, sign
from models.signing import make_key, read_private_key, signed
from tests.deploy.test_install import SCRIPT, check_installed, prepared, written_wheel
from tests.deploy.tools import DEPLOY, ROOT, run, succeeds

__all__ = ["prepared"]
NO_NETWORK = ("unshare", "--net", "--map-root-user")


@pytest.fixture
def key(tmp_path: Path) -> Path:
    make_key(tmp_path / "release.key")
    return tmp_path / "release.key"


@pytest.fixture
def bundle(tmp_path: Path, key: Path) -> Path:
    """A small bundle, signed: what `install.sh --bundle` writes, with a file in place of each wheel."""
    folder = tmp_path / "bundle"
    (folder / "wheels").mkdir(parents=True)
    for name in ("petite_curie-0.1.0-py3-none-any.whl", "six.whl"):
        (folder / "wheels" / name).write_bytes(name.encode() * 100)
    for name in ("install.sh", "logrotate.conf", "nftables.conf"):
        shutil.copy(DEPLOY / name, folder)
    shutil.copytree(DEPLOY / "systemd", folder / "systemd")
    shutil.copy(ROOT / "constraints.txt", folder)
    sign(folder, key)
    return folder


def install(bundle: Path, public: Path, python: str = "/bin/false") -> subprocess.CompletedProcess[str]:
    """Start the installation of a bundle; without a Python it ends right after the bundle was looked at."""
    words = ("--from", bundle, "--offline", "--key", public, "--root", bundle.parent / "root", "--python", python)
    return run("sh", SCRIPT, *words)


def test_a_bundle_as_it_was_signed_is_taken(bundle: Path, key: Path) -> None:
    said = install(bundle, key.with_suffix(".pub")).stdout.splitlines()
    assert said[0].startswith("install: signed by key ")
    assert said[0].endswith(", whole")
    assert "Python 3.11 to 3.13 is needed" in said[-1]


def flip(file: Path) -> None:
    """Change one bit in the middle of a file."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def sum_anew(bundle: Path) -> None:
    """What somebody does who changes a file and knows of the sums, and has another key."""
    flip(bundle / "constraints.txt")
    make_key(bundle.parent / "other.key")
    old = (bundle / SIGNATURE).read_bytes()
    sign(bundle, bundle.parent / "other.key")
    (bundle / SIGNATURE).write_bytes(old)


CHANGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a wheel": (lambda it: flip(it / "wheels" / "six.whl"), "changed since it was signed: wheels/six"),
    "a unit": (lambda it: flip(it / "systemd" / "curie.service"), "changed since it was signed: systemd/curie.service"),
    "constraints": (lambda it: flip(it / "constraints.txt"), "changed since it was signed: constraints.txt"),
    "sums": (lambda it: flip(it / SUMS), "SHA256SUMS is not what was signed"),
    "signature": (lambda it: flip(it / SIGNATURE), "signed with"),
    "summed anew": (sum_anew, "SHA256SUMS is not what was signed"),
    "a file more": (lambda it: (it / "wheels" / "more.whl").touch(), "holds what was not signed: wheels/more.whl"),
    "a hidden file more": (lambda it: (it / ".pip").touch(), "holds what was not signed: .pip"),
    "a link more": (lambda it: (it / "wheels" / "link").symlink_to("/etc"), "holds what was not signed: wheels/link"),
    "a file less": (lambda it: (it / "logrotate.conf").unlink(), "changed since it was signed: logrotate.conf"),
    "no signature": (lambda it: (it / SIGNATURE).unlink(), "is not signed"),
    "an empty signature": (lambda it: (it / SIGNATURE).write_text(""), "is not signed with"),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_bundle_is_refused_in_one_line(bundle: Path, key: Path, change: str) -> None:
    do, said = CHANGES[change]
    do(bundle)
    refused(install(bundle, key.with_suffix(".pub"), sys.executable), said, bundle)


def refused(ran: subprocess.CompletedProcess[str], said: str, bundle: Path) -> None:
    assert ran.returncode == 1
    (line,) = ran.stdout.splitlines()
    assert line.startswith("install: ")
    assert said in line
    assert not list((bundle.parent / "root").glob("*"))


def test_a_foreign_key_is_refused_in_one_line(bundle: Path) -> None:
    foreign = make_key(bundle.parent / "foreign.key")
    refused(install(bundle, foreign, sys.executable), f"the bundle is not signed with {foreign}", bundle)


def test_another_kind_of_key_is_refused_in_one_line(bundle: Path, tmp_path: Path) -> None:
    for name, content, said in (
        ("none.pub", "nothing", "holds no public key in PEM"),
        ("absent.pub", "", "is not there"),
    ):
        if content:
            (tmp_path / name).write_text(content)
        refused(install(bundle, tmp_path / name, sys.executable), said, bundle)
    succeeds("openssl", "genpkey", "-algorithm", "X25519", "-out", tmp_path / "x.key")
    succeeds("openssl", "pkey", "-in", tmp_path / "x.key", "-pubout", "-out", tmp_path / "x.pub")
    refused(install(bundle, tmp_path / "x.pub", sys.executable), "is not signed with", bundle)


def test_several_may_sign(bundle: Path, key: Path) -> None:
    second = make_key(bundle.parent / "second.key")
    both = signed(
        (bundle / SUMS).read_bytes(), (bundle / SIGNATURE).read_bytes(), read_private_key(second.with_suffix(".key"))
    )
    (bundle / SIGNATURE).write_bytes(both)
    for public in (key.with_suffix(".pub"), second):
        assert "whole" in install(bundle, public).stdout


@pytest.mark.long
def test_a_small_one_is_installed_without_an_interface(tmp_path: Path, key: Path, bundle: Path, prepared: Path) -> None:
    """The environment holds all but our own wheel, so nothing else is in the bundle."""
    shutil.rmtree(bundle / "wheels")
    written_wheel(bundle / "wheels")
    sign(bundle, key)
    check_installed(prepared, alone(bundle, key, prepared))


@pytest.mark.long
def test_a_whole_one_is_made_and_installed_without_an_interface(tmp_path: Path, key: Path) -> None:
    """Minutes and gigabytes, and the package registry for making it."""
    bundle, root = tmp_path / "bundle", tmp_path / "root"
    words = ("make", "offline-bundle", "VENV=none", f"PYTHON={sys.executable}", f"KEY={key}", f"BUNDLE={bundle}")
    succeeds(*words, cwd=ROOT, timeout=3000)
    check_installed(root, alone(bundle, key, root))


def alone(bundle: Path, key: Path, root: Path) -> subprocess.CompletedProcess[str]:
    """Install a bundle where there is no network interface at all, not even loopback."""
    if run(*NO_NETWORK, "true").returncode != 0:
        pytest.skip("no network namespace can be made here")
    environment = {key: value for key, value in os.environ.items() if key not in ("CURIE_CONFIG", "PYTHONPATH")}
    words = ("--offline", "--key", key.with_suffix(".pub"), "--root", root, "--python", sys.executable)
    return run(*NO_NETWORK, "sh", bundle / "install.sh", *words, env=environment, cwd="/", timeout=1500)
