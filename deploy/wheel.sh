#!/bin/sh
# Makes the wheel of the last commit, the same bytes on every machine: sources out of git, times and rights fixed.
#   sh deploy/wheel.sh OUT [PYTHON]     PYTHON holds pip, and setuptools in the version of constraints.txt
set -eu
umask 022
die() {
    echo "wheel: $*" >&2
    exit 1
}

[ $# -ge 1 ] || die "name the folder that the wheel goes to"
out=$1 python=${2:-python3}
here=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

SOURCE_DATE_EPOCH=$(git -C "$here" log -1 --format=%ct) || die "$here is no git checkout: times come from its last commit"
export SOURCE_DATE_EPOCH
[ -z "$(git -C "$here" status --porcelain)" ] || echo "wheel: what is not committed is left out" >&2
wanted=$(sed -n 's/^setuptools==//p' "$here/constraints.txt")
found=$("$python" -c 'import setuptools; print(setuptools.__version__)' 2>/dev/null) || found=none
[ "$found" = "$wanted" ] || die "$python holds setuptools $found, and $wanted is wanted: another one may make other bytes"

mkdir "$work/source" "$work/made"
git -C "$here" -c tar.umask=0022 archive --format=tar HEAD \
    pyproject.toml README.md LICENSE appliance dicom_nodes models workers >"$work/source.tar"
tar -xf "$work/source.tar" -C "$work/source"
"$python" -m pip wheel -q --disable-pip-version-check --no-deps --no-build-isolation -w "$work/made" "$work/source" ||
    die "the wheel could not be built; the lines above say why"
mkdir -p "$out" || die "$out could not be made"
mv "$work"/made/*.whl "$out/"
(cd "$out" && sha256sum petite_curie-*.whl)
