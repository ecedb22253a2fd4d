#!/bin/sh
# Sees to it that the real servers of the demo and of the tests are on PATH, and that Python can make a virtual
# environment. What is there already is used, whatever its origin; nothing is touched when nothing is missing. On a
# Debian or Ubuntu where we may install, the missing packages are installed; anywhere else this says what to install.
# The services that Debian's packages start on their usual ports are not used: the demo starts its own on free ports.
# With the argument `test` it also sees to what only the tests need.
set -eu

PYTHON=${PYTHON:-python3}
PACKAGED_POSTGRESQL=${PACKAGED_POSTGRESQL:-/usr/lib/postgresql} # where Debian keeps the servers: a folder for each version
CREATECLUSTER_D=${CREATECLUSTER_D:-/etc/postgresql-common/createcluster.d}
homebrew='prometheus alertmanager blackbox_exporter'
packages=''
wanted=''

need() { # need PACKAGE TITLE NAME... : one of the names must be on PATH, or be the path of a program
    package=$1 title=$2
    shift 2
    for name in "$@"; do
        if command -v "$name" >/dev/null 2>&1; then return; fi
    done
    packages="$packages $package"
    wanted="$wanted
  $title ($*)"
}

need prometheus 'Prometheus' prometheus
need prometheus 'promtool, which comes with Prometheus' promtool
need prometheus-alertmanager 'Alertmanager' prometheus-alertmanager alertmanager
need prometheus-blackbox-exporter 'blackbox exporter' prometheus-blackbox-exporter blackbox_exporter
if ! "$PYTHON" -c 'import ensurepip, venv' >/dev/null 2>&1; then
    version=$("$PYTHON" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null || echo 3)
    packages="$packages python3-venv"
    wanted="$wanted
  the venv module of Python $version"
fi
if [ "${1:-}" = test ]; then
    need postgresql 'PostgreSQL server' postgres "$PACKAGED_POSTGRESQL"/*/bin/postgres
    need pgbouncer 'PgBouncer, the pooler before it' pgbouncer
    need nodejs 'Node.js, which runs the code of Grafana that the dashboards are checked with' node
    need npm 'npm, which comes with Node.js in most places' npm
    need chromium 'Chromium, in which the pages are tested' chromium chromium-browser google-chrome
    need nginx-light 'nginx, the proxy that asks for client certificates' nginx
    homebrew="$homebrew postgresql pgbouncer node chromium nginx"
fi
# The tests start an engine of their own, which only root can: for others those tests are skipped.
if [ "${1:-}" = test ] && [ "$(id -u)" -eq 0 ]; then
    need docker.io 'Docker engine' dockerd
    need busybox-static 'busybox, statically linked' busybox
    need systemd 'systemd-analyze, which reads the unit' systemd-analyze
    docker compose version >/dev/null 2>&1 || need docker-compose 'Docker Compose' docker-compose
fi
if [ -z "$packages" ]; then exit 0; fi
packages=$(printf '%s\n' $packages | sort -u | tr '\n' ' ')
echo "missing:$wanted"

give_up() {
    cat >&2 <<END
setup: $1. Please install, and run this again:
  Debian, Ubuntu:    sudo apt-get install --no-install-recommends $packages
  Homebrew:          brew install $homebrew
  release archives:  prometheus, alertmanager and blackbox_exporter from https://prometheus.io/download/
                     unpacked anywhere on PATH
Missing here:$wanted
END
    exit 1
}

if ! command -v apt-get >/dev/null 2>&1; then give_up 'this system has no apt-get'; fi
if [ "$(id -u)" -eq 0 ]; then
    as_root='env'
elif command -v sudo >/dev/null 2>&1 && sudo -n true 2>/dev/null; then
    as_root='sudo -n env'
else
    give_up 'installing packages needs root, or sudo without a password'
fi

echo "installing with apt-get: $packages"
case $packages in *postgresql*)
    # Its package would make a cluster and start it with the machine, on port 5432. It is told not to, and only now:
    # who installs another version later gets what they expect.
    setting=$CREATECLUSTER_D/shf-setup.conf
    trap '$as_root rm -f "$setting"' EXIT
    trap 'exit 1' INT TERM
    $as_root mkdir -p "$CREATECLUSTER_D"
    echo 'create_main_cluster = false' | $as_root tee "$setting" >/dev/null
esac
# A source that cannot be reached need not be the one that has these packages: let the install decide.
$as_root apt-get update -qq || echo 'setup: apt-get update had errors, trying with what it got' >&2
$as_root DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $packages >&2 ||
    give_up 'apt-get could not install them'
