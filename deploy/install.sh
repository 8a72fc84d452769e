#!/bin/sh
# Installs, upgrades, rolls back and removes BountyExpo Realtime on Debian and Ubuntu.
#
#   deploy/install.sh [--dry-run]               install this release, or upgrade to it
#   deploy/install.sh [--dry-run] --rollback    go back to the release before
#   deploy/install.sh [--dry-run] --uninstall   remove it; the configuration and the database stay
#   deploy/install.sh [--dry-run] --purge       remove it with its configuration
#
# Run from the release's own directory, as root. Doing it again changes nothing. Other options:
#   --keep N   how many releases are kept (5)
#   --help
set -eu

NAME=bountyexpo-realtime
# DESTDIR: somewhere else than /, to look at what would be there; nothing is started then.
DESTDIR=${DESTDIR:-}
OPT=$DESTDIR/opt/$NAME
ETC=$DESTDIR/etc/$NAME
UNITS=$DESTDIR/etc/systemd/system
HEALTH=http://127.0.0.1:3001/health
HEALTH_TRIES=30
MANAGER=systemctl
SOURCE=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
dry=
keep=5
action=install

main() {
    while [ $# -gt 0 ]; do
        case $1 in
            --dry-run) dry=yes ;;
            --rollback) action=rollback ;;
            --uninstall) action=uninstall ;;
            --purge) action=purge ;;
            --keep) shift; keep=${1:?--keep wants a number} ;;
            --help) sed -n '2,12s/^# \{0,1\}//p' "$0"; exit 0 ;;
            *) fail "unknown option: $1 (see --help)" ;;
        esac
        shift
    done
    case $keep in ''|*[!0-9]*|0|1) fail "--keep wants a number of 2 or more" ;; esac
    [ -n "$dry$DESTDIR" ] || [ "$(id -u)" = 0 ] || fail "must be run as root (or with --dry-run)"
    if ! has_systemd; then
        say "without systemd: units are put in place, nothing is started"
    fi
    "$action"
}

install() {
    check_python
    release=$(release_name)
    target=$OPT/releases/$release
    make_configuration
    if [ -e "$target/.complete" ]; then
        say "release $release is there already"
    else
        make_release "$target"
    fi
    if ! configured; then
        install_units "$target"
        [ -L "$OPT/current" ] || switch_to "$target"
        say "now fill in $ETC/env and $ETC/secrets/, then run this again"
        return
    fi
    say "checking the configuration, and what it reaches"
    # `check` also says that migrations are missing: that is no reason to stop here.
    as_service "$target" check || say "(what is missing is done next)"
    say "migrating the database; the running release goes on meanwhile"
    as_service "$target" migrate
    [ "$(readlink -e "$OPT/current" || true)" = "$target" ] || try_out "$target"
    install_units "$target"
    activate "$target"
    remove_old_releases
}

rollback() {
    [ -L "$OPT/previous" ] || fail "there is no release before this one"
    target=$(readlink -e "$OPT/previous" || true)
    [ -e "$target/.complete" ] || fail "$target is not whole"
    say "rolling back to $(basename "$target"); the database stays as it is: migrations only add"
    install_units "$target"
    activate "$target"
}

uninstall() {
    if has_systemd; then
        run $MANAGER disable --now $NAME.socket $NAME.service || true
    fi
    run rm -f "$UNITS/$NAME.service" "$UNITS/$NAME.socket"
    if has_systemd; then
        run $MANAGER daemon-reload
    fi
    run rm -rf "$OPT"
    say "removed; $ETC and the database are left"
}

purge() {
    uninstall
    run rm -rf "$ETC" "$DESTDIR/var/lib/private/$NAME" "$DESTDIR/var/lib/$NAME"
}

check_python() {
    command -v python3 >/dev/null || fail "python3 is missing: apt-get install python3 python3-venv"
    python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        fail "Python 3.11 or newer is needed: Debian 12, Ubuntu 24.04 or later have it"
    python3 -c 'import ensurepip' 2>/dev/null || fail "python3-venv is missing: apt-get install python3-venv"
}

# The version, and what tells two builds of it apart.
release_name() {
    version=$(sed -n 's/^VERSION = "\(.*\)"$/\1/p' "$SOURCE/version.py")
    sum=$(cd "$SOURCE" && shipped | sort | xargs -d '\n' sha256sum | sha256sum | cut -c1-12)
    echo "$version-$sum"
}

# What a release consists of: all that is not development's.
shipped() {
    find . -type f ! -path './.*' ! -path '*/__pycache__/*' ! -path '*/node_modules/*' ! -name 'requirements-dev*' \
        ! -path './tests/*' ! -path './bench/*' ! -path './chaos/*' ! -path './fuzz/*' ! -path './conformance/*'
}

make_configuration() {
    run mkdir -p "$OPT/releases" "$ETC/secrets" "$UNITS"
    run chmod 755 "$OPT" "$OPT/releases" "$ETC"
    run chmod 700 "$ETC/secrets"
    if [ ! -e "$ETC/env" ]; then
        say "writing $ETC/env"
        run cp "$SOURCE/deploy/env.example" "$ETC/env"
        run chmod 644 "$ETC/env"
    fi
    for secret in $(secrets); do
        if [ ! -e "$ETC/secrets/$secret" ]; then
            say "making $ETC/secrets/$secret, empty: not set"
            run touch "$ETC/secrets/$secret"
        fi
        run chmod 600 "$ETC/secrets/$secret"
    done
}

secrets() {
    sed -n 's/^LoadCredential=\([a-z-]*\):.*/\1/p' "$SOURCE/deploy/systemd/$NAME.service"
}

configured() {
    [ -s "$ETC/secrets/database-url" ] && { [ -s "$ETC/secrets/supabase-jwt-secret" ] || grep -q '^SUPABASE_URL=.' "$ETC/env"; }
}

make_release() {
    say "making release $(basename "$1")"
    run rm -rf "$1"
    run mkdir -p "$1"
    if [ -n "$dry" ]; then
        echo "+ copy $(cd "$SOURCE" && shipped | wc -l) files to $1, make $1/.venv, install requirements.txt"
        return
    fi
    (cd "$SOURCE" && shipped | tar -cf - -T -) | tar -xf - -C "$1" --no-same-owner
    chmod -R u=rwX,go=rX "$1"
    python3 -m venv "$1/.venv"
    # Nothing but what is pinned by its hash; no dependency is looked for.
    "$1/.venv/bin/python" -m pip --disable-pip-version-check install --quiet --no-deps --require-hashes -r "$1/requirements.txt"
    "$1/.venv/bin/python" -m compileall -q "$1" -x '/\.venv/'
    touch "$1/.complete"
}

# Run server.py of a release with the service's settings and secrets: as nobody's user, where systemd can.
as_service() {
    directory=$1
    shift
    if [ -n "$dry" ]; then
        echo "+ server.py $* of $directory, with $ETC/env and $ETC/secrets/"
    elif has_systemd; then
        as_unit "$directory" --pipe --wait -- "$@"
    else
        set -- "$directory/.venv/bin/python" server.py "$@"
        for secret in $(secrets); do
            set -- "$(variable_of "$secret")=$ETC/secrets/$secret" "$@"
        done
        (cd "$directory" && exec env ENV_FILE="$ETC/env" "$@")
    fi
}

# as_unit DIRECTORY [OPTIONS OF systemd-run] -- [ARGUMENTS OF server.py]
as_unit() {
    directory=$1
    shift
    options=
    while [ "$1" != -- ]; do
        options="$options $1"
        shift
    done
    shift
    for secret in $(secrets); do
        options="$options --property=LoadCredential=$secret:$ETC/secrets/$secret"
        # %d would be the credentials' directory, but older releases of systemd-run do not expand it.
        options="$options --setenv=$(variable_of "$secret")=/run/credentials/$NAME-$$.service/$secret"
    done
    # shellcheck disable=SC2086  # none of the options holds a space
    systemd-run --quiet --collect --unit=$NAME-$$ --property=DynamicUser=yes --property=ProtectHome=yes \
        --property="WorkingDirectory=$directory" --setenv=ENV_FILE="$ETC/env" $options \
        "$directory/.venv/bin/python" server.py "$@"
}

variable_of() {
    echo "$(echo "$1" | tr 'a-z-' 'A-Z_')_FILE"
}

# Start the new release beside the one that runs, on a port that nobody knows, and see it answer.
try_out() {
    if [ -n "$dry" ]; then
        echo "+ start $(basename "$1") on a free port and ask for its health"
        return
    fi
    has_systemd || return 0
    say "trying out release $(basename "$1") beside the one that runs"
    port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
    as_unit "$1" --property=Type=notify --setenv=HOST=127.0.0.1 "--setenv=PORT=$port" -- serve ||
        fail "release $(basename "$1") does not start; nothing was changed. See: journalctl -u $NAME-$$"
    answers=yes
    healthy "$1" "http://127.0.0.1:$port/health" || answers=
    $MANAGER stop "$NAME-$$.service"
    [ -n "$answers" ] || fail "release $(basename "$1") is not healthy; nothing was changed. See: journalctl -u $NAME-$$"
}

install_units() {
    for unit in service socket; do
        if ! cmp -s "$1/deploy/systemd/$NAME.$unit" "$UNITS/$NAME.$unit"; then
            say "putting $UNITS/$NAME.$unit in place"
            run cp "$1/deploy/systemd/$NAME.$unit" "$UNITS/$NAME.$unit"
            run chmod 644 "$UNITS/$NAME.$unit"
        fi
    done
    if has_systemd; then
        run $MANAGER daemon-reload
        run $MANAGER enable --quiet $NAME.socket $NAME.service
    fi
}

# Switch, restart, look whether it answers; go back if it does not.
activate() {
    before=$(readlink -e "$OPT/current" || true)
    switch_to "$1"
    has_systemd || return 0
    run $MANAGER start $NAME.socket
    if run $MANAGER restart $NAME.service && healthy "$1" "$HEALTH"; then
        say "release $(basename "$1") serves"
        return
    fi
    [ -n "$before" ] && [ "$before" != "$1" ] && [ -e "$before/.complete" ] || fail "it does not answer; see: journalctl -u $NAME"
    say "it does not answer: going back to $(basename "$before")"
    switch_to "$before"
    install_units "$before"
    run $MANAGER restart $NAME.service
    fail "release $(basename "$1") was not healthy; see: journalctl -u $NAME"
}

switch_to() {
    before=$(readlink -e "$OPT/current" || true)
    if [ "$before" = "$1" ]; then
        return
    fi
    if [ -n "$before" ]; then
        run ln -sfn "$before" "$OPT/previous"
    fi
    say "switching to $(basename "$1")"
    # A rename: there is no moment without a `current`.
    run ln -sfn "$1" "$OPT/current.new"
    run mv -T "$OPT/current.new" "$OPT/current"
}

# healthy RELEASE ADDRESS
healthy() {
    [ -z "$dry" ] || { echo "+ wait for $2"; return 0; }
    tries=$HEALTH_TRIES
    while [ "$tries" -gt 0 ]; do
        if "$1/.venv/bin/python" -c "
import json, sys, urllib.request
try:
    with urllib.request.urlopen('$2', timeout=5) as answer:
        sys.exit(json.load(answer)['status'] != 'ok')
except OSError as error:
    sys.exit(str(error))
"; then
            return 0
        fi
        tries=$((tries - 1))
        sleep 1
    done
    return 1
}

remove_old_releases() {
    current=$(readlink -e "$OPT/current" || true)
    previous=$(readlink -e "$OPT/previous" || true)
    # Newest first, by when they were made; what is in use stays whatever its age.
    # shellcheck disable=SC2012  # the names are ours: no spaces
    for old in $(ls -1dt "$OPT"/releases/* | tail -n "+$((keep + 1))"); do
        if [ "$old" != "$current" ] && [ "$old" != "$previous" ]; then
            say "removing release $(basename "$old")"
            run rm -rf "$old"
        fi
    done
}

has_systemd() {
    [ -z "$DESTDIR" ] && [ -d /run/systemd/system ]
}

run() {
    if [ -n "$dry" ]; then
        echo "+ $*"
    else
        "$@"
    fi
}

say() {
    echo "install: $*"
}

fail() {
    echo "install: $*" >&2
    exit 1
}

main "$@"
