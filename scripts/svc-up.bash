#!/usr/bin/env bash
# Starts the service in the background and waits until it is ready.
set -euo pipefail
# shellcheck source=scripts/svc.bash
source "$(dirname "${BASH_SOURCE[0]}")/svc.bash"

help() {
    cat <<'HELP'
usage: scripts/svc-up.bash

Makes the environment, starts `antiphon serve` in the background and prints its address when it is
ready. The first start fetches the weights of the model. Its log, its process number, its database
and its secret are in DATA_DIR (.antiphon in this clone). scripts/svc-down.bash stops it.

Settings are environment variables, for example
  HTTP__PORT=8080 ENGINE__MODEL=tiny.en scripts/svc-up.bash
scripts/check-config.py shows them all.
HELP
}

case ${1-} in
    "") ;;
    -h | --help) help && exit ;;
    *) help >&2 && exit 2 ;;
esac

"$root/scripts/setup-dev.bash" --runtime >&2

if ready; then
    echo "Antiphon is up already: http://$host:$port"
    exit
fi

if ! service_pid >/dev/null; then
    mkdir -p "$DATA_DIR"
    set -m # in a process group of its own, where a Ctrl-C meant for this script does not reach it
    nohup "$root/.venv/bin/antiphon" serve </dev/null >>"$log_file" 2>&1 &
    set +m
    echo $! >"$pid_file"
fi

echo "Waiting for Antiphon; its log is $log_file …" >&2
until ready; do
    if ! kill -0 "$(cat "$pid_file")" 2>/dev/null; then
        tail -n 20 "$log_file" >&2
        echo "Antiphon did not start; the end of its log is above." >&2
        exit 1
    fi
    sleep 0.2
done
echo "Antiphon is up: http://$host:$port"
