# Shared by the scripts beside it: messages, and running a command as root. Sourced, never run.
# shellcheck shell=bash

say() { printf '>> %s\n' "$*" >&2; }

die() {
    printf '!! %s\n' "$1" >&2
    [ $# -lt 2 ] || printf 'HINT: %s\n' "$2" >&2
    exit 1
}

# Runs a command as root: directly, or with sudo, which may ask for a password only where somebody can answer.
as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
        return
    fi
    command -v sudo >/dev/null || die "this needs root, and sudo is not installed: $*" "Run the same command as root."
    [ -t 0 ] || sudo --non-interactive true 2>/dev/null ||
        die "this needs root, and sudo would ask for a password without a terminal: $*" "Run the same command as root."
    sudo --preserve-env=DEBIAN_FRONTEND "$@"
}
