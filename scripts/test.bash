#!/usr/bin/env bash
# Everything that has to hold before a change goes in: lint, types, contracts and every test.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

help() {
    cat <<'HELP'
usage: scripts/test.bash [--full] [pytest arguments]

Makes the environment, then runs ruff, mypy, import-linter and pytest, and stops at the first that
fails. Tests run where what they need is there (PostgreSQL, weights, a card); the end of the run
names those that did not and says why.

  --full                       also the long runs: faults, fuzz
  scripts/test.bash -k queue   only tests with "queue" in their name
  scripts/test.bash -x --lf    what failed last, up to the first failure
HELP
}

took=""

step() {
    local name=$1 began=$SECONDS
    shift
    printf '\n== %s\n' "$name"
    if ! "$@"; then
        printf '%s\nFAILED: %s\n' "$took" "$name" >&2
        exit 1
    fi
    took+=$(printf '\n  %-10s %4d s' "$name" $((SECONDS - began)))
}

weights() {
    .venv/bin/antiphon weights pull base tiny.en ||
        echo "Without them the tests that listen are left out; the reason is above." >&2
}

marks="not full"
case ${1-} in
    -h | --help) help && exit ;;
    --full) marks="" && shift ;;
esac

step setup scripts/setup-dev.bash
step lint .venv/bin/ruff check .
step format .venv/bin/ruff format --check .
step types .venv/bin/mypy
step contracts .venv/bin/lint-imports
step weights weights
step tests .venv/bin/pytest -m "$marks" "$@"
printf '%s\n\nAll passed.\n' "$took"
