#!/bin/sh
# Tries install.sh and the units for real: a clean Debian of its own, booted with systemd as process 1, with PostgreSQL
# and without a network. Needs root, debootstrap, systemd-nspawn, and pip's packages, which are fetched beforehand.
#
#   deploy/trial/run.sh DIRECTORY     (some 1.5 GB; the Debian is kept there for the next run)
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
source=$(CDPATH='' cd -- "$here/../.." && pwd)
directory=${1:?a directory is wanted}
mkdir -p "$directory"
clean=$directory/clean root=$directory/root

if [ ! -e "$clean/.complete" ]; then
    debootstrap --variant=minbase --include=systemd,systemd-sysv,dbus,ca-certificates,iproute2,procps bookworm "$clean"
    DEBIAN_FRONTEND=noninteractive chroot "$clean" apt-get install -y -qq --no-install-recommends \
        python3 python3-venv postgresql-15
    touch "$clean/.complete"
fi
rm -rf "$root"
cp -a "$clean" "$root"
mkdir -p "$root/root/source" "$root/wheels"
(cd "$source" && git ls-files -z | xargs -0 tar -cf -) | tar -xf - -C "$root/root/source"
"$source/.venv/bin/python" -m pip --disable-pip-version-check download -q --no-deps --require-hashes \
    -r "$source/requirements.txt" -d "$root/wheels"
printf '[global]\nno-index = true\nfind-links = /wheels\n' > "$root/etc/pip.conf"
cat > "$root/etc/systemd/system/trial.service" <<'UNIT'
[Unit]
After=multi-user.target postgresql.service
[Service]
Type=oneshot
ExecStart=/bin/sh /root/source/deploy/trial/inside.sh
ExecStopPost=/bin/systemctl --no-block poweroff
StandardOutput=file:/root/trial.log
StandardError=inherit
Environment=HOME=/root
[Install]
WantedBy=default.target
UNIT
ln -sf /etc/systemd/system/trial.service "$root/etc/systemd/system/multi-user.target.wants/trial.service"
SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1 systemd-nspawn --quiet --directory="$root" --machine=bountyexpo-trial \
    --register=no --keep-unit --private-network --boot systemd.unit=multi-user.target > "$directory/console.log" 2>&1 || true
cat "$root/root/trial.log"
grep -q '^The trial is over: all is well.$' "$root/root/trial.log"
