#!/bin/sh
# What is tried inside the Debian that run.sh boots.
set -eu
cd /
NAME=bountyexpo-realtime
python=/opt/$NAME/current/.venv/bin/python

trap 'journalctl -n 40 -o cat --no-pager -u $NAME' EXIT
step() {
    printf '\n== %s\n' "$*"
}

step "systemd is process 1: $(cat /proc/1/comm), $(systemctl --version | head -1)"
step "a dry run"
/root/source/deploy/install.sh --dry-run > /tmp/dry && head -8 /tmp/dry
step "the first run: from nothing to a configuration to fill in"
/root/source/deploy/install.sh
step "the database and the secrets"
systemctl start postgresql
runuser -u postgres -- psql -qc "CREATE ROLE realtime LOGIN PASSWORD 'trial'" -c "CREATE DATABASE realtime OWNER realtime"
echo 'postgresql://realtime:trial@127.0.0.1:5432/realtime' > /etc/$NAME/secrets/database-url
echo 'a secret that only the tests know, long enough' > /etc/$NAME/secrets/supabase-jwt-secret
step "the second run: migrated, tried out, started"
/root/source/deploy/install.sh
systemctl status --no-pager $NAME.service $NAME.socket > /tmp/status && head -24 /tmp/status
systemd-analyze verify /etc/systemd/system/$NAME.service /etc/systemd/system/$NAME.socket
systemd-analyze security --no-pager $NAME.service | tail -1
step "the third run changes nothing but restarts"
/root/source/deploy/install.sh

step "ten restarts under load, by the real unit"
cat >> /etc/$NAME/env <<'LIMITS'
MESSAGE_RATE=0
FRAME_RATE=0
REST_RATE_PER_MINUTE=0
CONNECT_RATE_PER_10S=0
LIMITS
systemctl reload $NAME
PYTHONPATH=/root/source $python -m deploy.trial.restarts
journalctl -u $NAME -o cat --no-pager | grep -c '"server.draining"'

step "a loop that stalls is found by the watchdog and started again"
mkdir -p /run/systemd/system/$NAME.service.d
printf '[Service]\nWatchdogSec=4\n' > /run/systemd/system/$NAME.service.d/trial.conf
systemctl daemon-reload
systemctl restart $NAME
stalled=$(systemctl show -P MainPID $NAME)
kill -STOP "$stalled"
tries=30
while [ "$(systemctl show -P MainPID $NAME)" = "$stalled" ] || [ "$(systemctl show -P ActiveState $NAME)" != active ]; do
    tries=$((tries - 1)); [ $tries -gt 0 ]; sleep 1
done
journalctl -u $NAME -o cat --no-pager | grep -m1 -i 'watchdog timeout'
systemctl show -p NRestarts $NAME
rm -r /run/systemd/system/$NAME.service.d
systemctl daemon-reload

step "a backup, and back from it"
runuser -u postgres -- pg_dump --format=custom --no-owner --file=/tmp/realtime.dump realtime
runuser -u postgres -- createdb --owner=realtime restored
runuser -u postgres -- pg_restore --no-owner --role=realtime --exit-on-error --single-transaction \
    --dbname=restored /tmp/realtime.dump
for database in realtime restored; do
    runuser -u postgres -- psql -Atc "SELECT count(*), sum(seq), max(created_at) FROM messages" $database
done
systemctl stop $NAME.socket $NAME.service
runuser -u postgres -- psql -q -c "ALTER DATABASE realtime RENAME TO broken" -c "ALTER DATABASE restored RENAME TO realtime"
systemctl start $NAME.socket $NAME.service
$python -c 'import urllib.request; print(urllib.request.urlopen("http://127.0.0.1:3001/health").read().decode())'

step "an upgrade, and back"
before=$(readlink /opt/$NAME/current)
sed -i 's/^VERSION = .*/VERSION = "1.0.1-trial"/' /root/source/version.py
/root/source/deploy/install.sh
$python -c 'import urllib.request; print(urllib.request.urlopen("http://127.0.0.1:3001/health").read().decode())'
/root/source/deploy/install.sh --rollback
[ "$(readlink /opt/$NAME/current)" = "$before" ]

step "an upgrade that does not start changes nothing"
sed -i 's/^VERSION = .*/VERSION = "1.0.2-broken"\nimport does_not_exist/' /root/source/version.py
if /root/source/deploy/install.sh; then exit 1; fi
[ "$(readlink /opt/$NAME/current)" = "$before" ]
$python -c 'import urllib.request; print(urllib.request.urlopen("http://127.0.0.1:3001/health").read().decode())'

step "removed"
/root/source/deploy/install.sh --purge
if systemctl is-active $NAME.socket; then exit 1; fi
[ ! -e /opt/$NAME ]
trap - EXIT
printf '\nThe trial is over: all is well.\n'
