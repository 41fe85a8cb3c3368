#!/bin/sh
# Put the built OHIF viewer into a folder: the npm package @ohif/app, pinned. It is unpacked, nothing of it is run;
# one fault of it is mended that its settings cannot make up for (docs/viewer.md).
set -eu
version=3.13.2
# npm's integrity of that version, sha512-WZdxmpmG7rqFgW9ZJLcbgr3XCtLi1KDNPoMaeY5PPe6j4G4fjEjjkycZM6C6Zk2F87BKxFfpq+jd5xXZB9E8EA==, in hexadecimal
digest=5997719a9986eeba85816f5924b71b82bdd70ad2e2d4a0cd3e831a798e4f3deea3e06e1f8c48e393271933a0ba664d85f3b04ac457e9abe8dde715d907d13c10
mended="$version, bits"
target=${1:-.build/ohif}

[ "$(cat "$target/.version" 2>/dev/null)" = "$mended" ] && exit 0
command -v npm >/dev/null || { echo "npm is needed to fetch the viewer: apt install npm" >&2; exit 3; }
mkdir -p "$(dirname "$target")"
fresh=$(mktemp -d "$target.XXXXXX")
trap 'rm -rf "$fresh"' EXIT
npm pack --silent --pack-destination "$fresh" "@ohif/app@$version" >/dev/null ||
  { echo "the viewer could not be fetched: is the npm registry reachable? Then run this again" >&2; exit 3; }
echo "$digest  $fresh/ohif-app-$version.tgz" | sha512sum --check --status ||
  { echo "@ohif/app $version is not the package it was: its digest differs; nothing was installed" >&2; exit 1; }
tar -xzf "$fresh/ohif-app-$version.tgz" -C "$fresh" --exclude='*.map' package/dist
# Its reader takes the bits of a frame that begins inside of a byte from the wrong end (the first pixel is the lowest
# bit, PS3.5 Section 8.2): segments of images whose Rows x Columns are no multiple of 8 would be drawn in shreds.
grep -l 'sourceByte >> 7 - sourceBitIndex & 1' "$fresh"/package/dist/*.js |
  xargs sed -i -e 's/sourceByte >> 7 - sourceBitIndex & 1/sourceByte >> sourceBitIndex \& 1/' \
    -e 's/|= 1 << 7 - targetBitIndex/|= 1 << targetBitIndex/'
echo "$mended" >"$fresh/package/dist/.version"
rm -rf "$target"
mv "$fresh/package/dist" "$target"
