#!/usr/bin/env bash
# A recording in, a transcript out: makes the environment, then runs `antiphon transcribe` with the same arguments.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
"$root/scripts/setup-dev.bash" --runtime >&2 # stdout is the transcript's
export DATA_DIR=${DATA_DIR:-$root/.antiphon}
exec "$root/.venv/bin/antiphon" transcribe "$@"
