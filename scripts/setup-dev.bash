#!/usr/bin/env bash
# Makes .venv in this clone, of exactly the versions in scripts/constraints.txt.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

help() {
    cat <<'HELP'
usage: scripts/setup-dev.bash [--runtime]

Makes .venv in this clone: Antiphon as an editable install with the embedded PostgreSQL, and the
development tools. Run it again whenever you like: it does nothing while pyproject.toml,
scripts/constraints.txt and Python are the same. To begin from nothing: rm -rf .venv

  --runtime   only what the service needs: no development tools, and of the engines faster_whisper alone
HELP
}

fail() {
    printf 'setup-dev: %s\n' "$*" >&2
    exit 1
}

# The clone's place counts: the programs in .venv/bin hold it in their first line.
fingerprint() {
    { pwd && .venv/bin/python --version && cat pyproject.toml scripts/constraints.txt; } 2>/dev/null | cksum
}

# Debian's python3 may come without venv, and a version manager's shim without a version behind it: ask each.
find_python() {
    local candidate
    while IFS= read -r candidate; do
        if "$candidate" -c 'import sys, ensurepip, venv; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; then
            printf '%s\n' "$candidate"
            return
        fi
    done < <(type -aP python3.11 python3 python)
    fail "Python 3.11 with its venv module is needed (3.12 and later do not work yet). Debian 12: apt-get install" \
        "python3.11-venv; macOS: brew install python@3.11; anywhere: uv python install 3.11. Then run this again."
}

# Tests go through a real PgBouncer; where Debian's packages cannot be had they are left out, and say so.
fetch_pgbouncer() {
    [[ -d .venv/pgbouncer ]] || type -P pgbouncer >/dev/null && return
    type -P apt-get >/dev/null && type -P dpkg >/dev/null || return 0
    apt() { timeout 60 apt-get -qq -o APT::Sandbox::User=root "$@"; }
    local packages
    packages=$(mktemp -d)
    if (cd "$packages" && { apt download pgbouncer libc-ares2 || { apt update && apt download pgbouncer libc-ares2; }; }) \
        &>"$packages/log"; then
        find "$packages" -name '*.deb' -exec dpkg -x {} .venv/pgbouncer \;
    else
        echo "PgBouncer cannot be had, and its tests are left out: $(tail -n 1 "$packages/log")" >&2
    fi
    rm -r "$packages"
}

tools=dev
case ${1-} in
    "") ;;
    --runtime) tools=runtime ;;
    -h | --help) help && exit ;;
    *) help >&2 && exit 2 ;;
esac

made=$(cat .venv/stamp 2>/dev/null || true)
[[ $made == *" dev" ]] && tools=dev # who has the tools keeps them
if [[ $made == "$(fingerprint) $tools" ]]; then
    [[ $tools != dev ]] || fetch_pgbouncer
    exit
fi

if ! .venv/bin/python -c 'import pip' 2>/dev/null || ! grep -qF " $PWD/.venv" .venv/pyvenv.cfg; then
    python=$(find_python)
    echo "Making .venv with $python …"
    "$python" -m venv --clear .venv || fail "venv failed; its reason is above. Mend that and run this again."
fi

pip() {
    .venv/bin/python -m pip -qq --disable-pip-version-check --no-input "$@" ||
        fail "pip could not install; its reason is above. Most often no package index can be reached: mend that" \
            "and run this again. To begin from nothing: rm -rf .venv"
}

rm -f .venv/stamp
if [[ $tools == dev ]]; then
    echo "Installing Antiphon and the development tools, about a minute the first time …"
    pip install pip==25.3
    pip install -c scripts/constraints.txt -e '.[embedded,torch,whisper-cpp]' --group dev
    fetch_pgbouncer
else
    echo "Installing Antiphon, about a minute the first time …"
    pip install pip==25.3
    pip install -c scripts/constraints.txt -e '.[embedded]'
fi
printf '%s %s\n' "$(fingerprint)" "$tools" >.venv/stamp
echo "Ready: .venv"
