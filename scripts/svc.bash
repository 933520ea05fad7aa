# What svc-up.bash and svc-down.bash agree on: where the service lives, and whether it does. Sourced, not run.
# shellcheck shell=bash

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
export DATA_DIR=${DATA_DIR:-$root/.antiphon}
pid_file=$DATA_DIR/service.pid
log_file=$DATA_DIR/service.log

host=${HTTP__HOST:-127.0.0.1}
[[ $host == 0.0.0.0 ]] && host=127.0.0.1
[[ $host == :: ]] && host=::1
port=${HTTP__PORT:-8000}

# The service's process, if it runs. After a reboot the file may name somebody else's.
service_pid() {
    local pid
    pid=$(cat "$pid_file" 2>/dev/null) || return
    { cat "/proc/$pid/cmdline" || ps -o command= -p "$pid"; } 2>/dev/null | tr '\0' ' ' | grep -q 'antiphon serve' || return
    printf '%s\n' "$pid"
}

# Not curl, which is not everywhere; and no proxy stands between us and this machine.
ready() {
    "$root/.venv/bin/python" - "$host" "$port" 2>/dev/null <<'PYTHON'
import http.client, sys
door = http.client.HTTPConnection(sys.argv[1], int(sys.argv[2]), timeout=2)
door.request("GET", "/readyz")
sys.exit(door.getresponse().status != 200)
PYTHON
}
