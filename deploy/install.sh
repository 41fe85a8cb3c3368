#!/bin/sh
# Installs Petite Curie on a bare Debian 12 or Ubuntu 22.04+ host, or brings an installation up to date. It may be run
# again at any time: settings and data are never overwritten. Last it runs `curie doctor`.
set -eu
umask 022 # the services read what root installs

usage() {
    cat <<'TEXT'
sh install.sh [--from PATH] [--offline --key FILE] [--extras LIST] [--python PYTHON] [--root DIR]
sh install.sh --bundle DIR [--from PATH] [--extras LIST] [--python PYTHON]

  --from PATH      a checkout, a wheel, or a folder made by --bundle; absent: what this script lies in
  --offline        fetch nothing: needs such a folder, and Python with venv on the host
  --key FILE       the public key that the folder must be signed with; it must not have come with the folder
  --unsigned       take a folder that nobody signed
  --extras LIST    of the package (postgres,hl7): also federation, tensorrt-rtx
  --python PYTHON  3.11 to 3.13; absent: the first of python3, python3.13, python3.12, python3.11 that is one
  --root DIR       to try it: all below DIR, without root, system packages, user and systemd
  --bundle DIR     install nothing: write all wheels and this script to DIR, for a host without the network that has
                   the same system and Python
TEXT
}

say() { echo "install: $*"; }
die() {
    echo "install: $*" >&2
    exit 1
}

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
from='' offline='' extras=postgres,hl7 python='' root='' bundle='' key='' unsigned=''
while [ $# -gt 0 ]; do
    case $1 in
    --offline) offline=yes ;;
    --unsigned) unsigned=yes ;;
    --help | -h)
        usage
        exit 0
        ;;
    --from | --extras | --python | --root | --bundle | --key)
        [ $# -gt 1 ] || die "$1 wants a value; --help tells"
        case $1 in
        --from) from=$2 ;;
        --extras) extras=$2 ;;
        --python) python=$2 ;;
        --root) root=$2 ;;
        --bundle) bundle=$2 ;;
        --key) key=$2 ;;
        esac
        shift
        ;;
    *) die "there is no option $1; --help tells" ;;
    esac
    shift
done
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# --- what is to be installed ---

[ -n "$from" ] || { [ -d "$here/wheels" ] && from=$here; } || from=$here/..
[ -e "$from" ] || die "--from $from is not there"
if [ -d "$from/wheels" ]; then
    files=$from
    constraints=$from/constraints.txt
elif [ -f "$from/pyproject.toml" ]; then
    files=$from/deploy
    constraints=$from/constraints.txt
elif [ -f "$from" ] && [ "${from%.whl}" != "$from" ]; then
    files=$here
    constraints=$here/../constraints.txt
else
    die "--from $from is neither a checkout nor a wheel nor a folder made by --bundle"
fi
[ -f "$constraints" ] || die "$constraints is not there: without it nobody knows which versions were tested"
[ -z "$offline" ] || [ -d "$from/wheels" ] || die "--offline needs a folder made by --bundle on a host with a network"

# --- who vouches for a bundle; nothing of it is run or read before ---

verified() {
    [ -f "$key" ] || die "--key $key is not there"
    command -v openssl >/dev/null || die "openssl is needed to look at the signature; install it, then run this again"
    [ -f "$from/SHA256SUMS" ] && [ -f "$from/SHA256SUMS.sig" ] || die "$from is not signed; --unsigned takes it all the same"
    openssl pkey -pubin -in "$key" -outform DER >"$work/key.der" 2>/dev/null || die "$key holds no public key in PEM"
    # an Ed25519 key is the last 32 of 44 bytes (RFC 8410)
    [ "$(wc -c <"$work/key.der")" -eq 44 ] || die "$key holds no Ed25519 key"
    id=$(tail -c 32 "$work/key.der" | sha256sum | cut -d ' ' -f 1)
    sed -n "s/^ed25519 $id \\([A-Za-z0-9+/]*==\\)\$/\\1/p" "$from/SHA256SUMS.sig" | head -n 1 >"$work/signature.txt"
    [ -s "$work/signature.txt" ] || die "the bundle is not signed with $key; a foreign one is not installed"
    base64 -d "$work/signature.txt" >"$work/signature" 2>/dev/null || die "the bundle's signature cannot be read"
    openssl pkeyutl -verify -pubin -inkey "$key" -rawin -in "$from/SHA256SUMS" -sigfile "$work/signature" >/dev/null 2>&1 ||
        die "SHA256SUMS is not what was signed with $key; the bundle is not installed"
    (cd "$from" && sha256sum --check --strict --quiet SHA256SUMS >"$work/changed" 2>/dev/null) ||
        die "the bundle was changed since it was signed: $(head -n 1 "$work/changed")"
    (cd "$from" && find . ! -type d ! -name SHA256SUMS ! -name SHA256SUMS.sig) | sed 's|^\./||' | LC_ALL=C sort >"$work/there"
    sed 's/^[0-9a-f]*  //' "$from/SHA256SUMS" | LC_ALL=C sort >"$work/told"
    cmp -s "$work/there" "$work/told" ||
        die "the bundle holds what was not signed: $(comm -23 "$work/there" "$work/told" | head -n 1)"
    say "signed by key $id, whole"
}
[ -z "$offline" ] || [ -n "$unsigned" ] || [ -n "$key" ] ||
    die "--offline needs --key FILE, the public key of who made the bundle; --unsigned takes it without"
[ -z "$key" ] || verified

fits() { "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' 2>/dev/null; }
find_python() {
    for one in ${python:-python3 python3.13 python3.12 python3.11}; do
        if fits "$one"; then
            python=$one
            return 0
        fi
    done
    return 1
}

# --- the host ---

system_packages() {
    # shellcheck source=/dev/null
    system=$([ ! -r /etc/os-release ] || { . /etc/os-release && echo "$ID-$VERSION_ID"; })
    set -- dicom3tools # with it every result is checked by dciodvfy too
    case $system-${python:-absent} in
    debian-12*-absent | debian-13*-absent | ubuntu-2[3-9].*-absent) set -- "$@" python3 python3-venv python3-dev ;;
    ubuntu-22.*-absent) set -- "$@" python3.11 python3.11-venv python3.11-dev ;; # beside its own 3.10
    debian-12* | debian-13* | ubuntu-2[2-9].*) ;;
    *) die "this is ${system:-an unknown system}; Debian 12 or Ubuntu 22.04 or later is needed" ;;
    esac
    [ -d "$from/wheels" ] || set -- "$@" gcc g++ # some wheels are compiled
    say "system packages: $*"
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@"; } \
        >"$work/apt.log" 2>&1 || {
        tail -n 5 "$work/apt.log" >&2
        die "these system packages could not be installed: $*; install them by hand, then run this again"
    }
}

user() {
    id curie >/dev/null 2>&1 ||
        useradd --system --user-group --home-dir /var/lib/curie --no-create-home --shell /usr/sbin/nologin curie ||
        die "the user curie could not be made; make it by hand, then run this again"
}

own() { # MODE OWNER FOLDER…: make folders, that are ours as root only
    mode=$1 owner=$2
    shift 2
    if [ -n "$root" ]; then
        install -d -m "$mode" "$@"
    else
        install -d -m "$mode" -o "${owner%:*}" -g "${owner#*:}" "$@"
    fi || die "$* could not be made"
}

# --- the package, in an environment of its own ---

build() { # into $work, from a copy: a build leaves files in its folder
    [ ! -d "$from/wheels" ] || return 0
    if [ -f "$from" ]; then
        cp "$from" "$work/"
        return 0
    fi
    mkdir "$work/source"
    for part in pyproject.toml README.md LICENSE appliance dicom_nodes models workers; do
        cp -R "$from/$part" "$work/source/" || die "$from is not a whole checkout: $part is not there"
    done
    "$1" -m pip wheel -q --disable-pip-version-check --no-deps -w "$work" "$work/source" ||
        die "the package could not be built from $from; the lines above say why"
}

fetching() { [ -z "$offline" ] || echo "--no-index"; }
wheels() { [ ! -d "$from/wheels" ] || echo "--find-links=$from/wheels"; }
wheel() { find "$work" "$from/wheels" -maxdepth 1 -name 'petite_curie-*.whl' 2>/dev/null | head -n 1; }

environment() {
    venv=$root/opt/curie/venv
    own 0755 root:root "$root/opt/curie"
    [ -x "$venv/bin/python" ] || "$python" -m venv "$venv" ||
        die "no virtual environment could be made by $python; is its venv package installed?"
    build "$venv/bin/python"
    say "Python packages into $venv (minutes the first time)"
    # shellcheck disable=SC2046 # nothing or one word each
    "$venv/bin/python" -m pip install -q --disable-pip-version-check $(fetching) $(wheels) -c "$constraints" \
        "$(wheel)[$extras]" ||
        die "the Python packages could not be installed; is the package registry reachable? What is done is kept"
    # the same version again may be another build
    "$venv/bin/python" -m pip install -q --disable-pip-version-check --no-index --no-deps --force-reinstall "$(wheel)" ||
        die "the package could not be installed anew into $venv"
}

write_bundle() {
    "$python" -m venv "$work/venv" || die "no virtual environment could be made by $python; is its venv package installed?"
    build "$work/venv/bin/python"
    install -d "$bundle/wheels" || die "$bundle could not be made"
    say "wheels into $bundle/wheels (minutes, gigabytes)"
    # shellcheck disable=SC2046 # nothing or one word
    "$work/venv/bin/python" -m pip wheel -q --disable-pip-version-check $(wheels) -c "$constraints" -w "$bundle/wheels" \
        "$(wheel)[$extras]" || die "not every wheel could be had; is the package registry reachable?"
    for part in install.sh systemd logrotate.conf nftables.conf; do
        cp -R "$files/$part" "$bundle/" || die "$files/$part could not be copied"
    done
    cp "$constraints" "$bundle/constraints.txt" || die "$constraints could not be copied"
    say "done: sign it, or on the other host run  sh ${bundle##*/}/install.sh --offline --unsigned --extras $extras"
}

# --- settings, command, units ---

settings() {
    file=$root/etc/curie/curie.toml
    own 0750 root:curie "$root/etc/curie"
    own 0700 curie:curie "$root/etc/curie/tls" "$root/etc/curie/federation" "$root/var/backups/curie"
    own 0750 curie:curie "$root/var/lib/curie" "$root/var/log/curie"
    if [ -e "$file" ]; then
        say "$file is there already and stays as it is"
        return 0
    fi
    "$venv/bin/curie" init "$work/init" >/dev/null || die "no example of the settings could be written"
    sed "s|^data_dir = \"[^\"]*\".*|data_dir = \"$root/var/lib/curie\"|" "$work/init/curie.toml" >"$work/curie.toml"
    install -m 0640 "$work/curie.toml" "$file" || die "$file could not be written"
    [ -n "$root" ] || chgrp curie "$file"
}

wrapper() { # as root it becomes curie: files that root made would be in the way of the services
    install -d "$root/usr/local/bin"
    cat >"$work/curie" <<TEXT
#!/bin/sh
CURIE_CONFIG=\${CURIE_CONFIG:-$root/etc/curie/curie.toml}
export CURIE_CONFIG
umask 027
if [ -z "$root" ] && [ "\$(id -u)" = 0 ]; then
    exec runuser -u curie -- $venv/bin/curie "\$@"
fi
exec $venv/bin/curie "\$@"
TEXT
    install -m 0755 "$work/curie" "$root/usr/local/bin/curie" || die "$root/usr/local/bin/curie could not be written"
}

units() {
    etc=$root/etc
    install -d "$etc/systemd/system" "$etc/logrotate.d"
    install -m 0644 "$files"/systemd/curie*.service "$files"/systemd/curie*.timer "$etc/systemd/system/"
    for unit in curie.service curie@.service curie-backup.service; do
        install -D -m 0644 "$files/systemd/confined.conf" "$etc/systemd/system/$unit.d/confined.conf"
    done
    install -m 0644 "$files/logrotate.conf" "$etc/logrotate.d/curie"
}

running() {
    if [ -n "$root" ] || [ ! -d /run/systemd/system ]; then
        say "systemd does not run here; start by hand:  $root/usr/local/bin/curie up 2>>$root/var/log/curie/curie.log"
        return 0
    fi
    systemctl daemon-reload || die "systemd did not take the units; look at: journalctl -xe"
    systemctl enable -q --now curie-backup.timer || die "the nightly backup could not be switched on"
    systemctl try-restart curie.service 'curie@*.service' || die "curie did not start again: journalctl -u curie"
    say "name your PACS in $root/etc/curie/curie.toml, then:  systemctl enable --now curie"
}

if [ -n "$bundle" ]; then
    find_python || die "Python 3.11 to 3.13 is needed; name one with --python"
    write_bundle
    exit 0
fi
if [ -n "$root" ]; then
    mkdir -p "$root" || die "$root could not be made"
    root=$(CDPATH='' cd -- "$root" && pwd)
else
    [ "$(id -u)" = 0 ] || die "this needs root (sudo sh $0), or --root DIR to try it"
    [ -n "$offline" ] || system_packages
    user
fi
find_python || die "Python 3.11 to 3.13 is needed; install it, or name one with --python"
environment
settings
wrapper
units
running
say "curie doctor says:"
found=0
"$root/usr/local/bin/curie" doctor || found=$?
case $found in
0) say "done" ;;
1) say "installed; what is marked FAIL above is left to do" ;;
*) die "curie doctor could not run (exit code $found); mend what the line above names" ;;
esac
