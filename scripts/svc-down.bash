#!/usr/bin/env bash
# Stops the service that svc-up.bash started, and waits until it has ended.
set -euo pipefail
# shellcheck source=scripts/svc.bash
source "$(dirname "${BASH_SOURCE[0]}")/svc.bash"

help() {
    cat <<'HELP'
usage: scripts/svc-down.bash

Asks the service to end (SIGTERM) and waits. Work in hand is finished, or given back to the queue
after SHUTDOWN__GRACE_SECONDS; nothing is lost, and the next start goes on with it.
HELP
}

case ${1-} in
    "") ;;
    -h | --help) help && exit ;;
    *) help >&2 && exit 2 ;;
esac

if ! pid=$(service_pid); then
    rm -f "$pid_file"
    echo "Antiphon is not running."
    exit
fi

kill -TERM "$pid"
grace=${SHUTDOWN__GRACE_SECONDS:-30}
give_up_at=$((SECONDS + ${grace%.*} + 60))
while service_pid >/dev/null; do
    if ((SECONDS > give_up_at)); then
        echo "Antiphon (process $pid) does not end; see $log_file. As a last resort: kill -9 $pid" >&2
        exit 1
    fi
    sleep 0.1
done
rm -f "$pid_file"
echo "Antiphon has ended."
