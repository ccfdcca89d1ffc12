"""What is run on the server where the account has a shell: POSIX sh, its words given as $1, $2, …, never put into it.

Statuses above 70 are ours; sh and its programs use small ones.
"""

from kvm_backup.domain.names import PARTIAL_PREFIX

INCOMING_PREFIX = ".incoming-"
"""A point that is arriving. Readers see no folder of such a name, and no run on that server takes it for its own."""

MARKER = "kvm-backup-shell"
PROBE = f"command -v sha256sum >/dev/null && command -v rsync >/dev/null && echo {MARKER}"

PARENT_MISSING = 71
CHANGED = 72

LOOK = """
cd "$1" 2>/dev/null || { echo absent; exit 0; }
[ -d "$2" ] || { echo absent; exit 0; }
sha256sum < "$2/manifest.json" | cut -d' ' -f1
"""
"""$1 the VM's folder, $2 the point: `absent`, or the SHA-256 of its manifest's bytes (of nothing, without one)."""

DIGESTS = """
cd "$1" || exit 1
shift
while [ $# -gt 1 ]; do
    case "$1" in
    image) { tail -c +65537 "./$2" && head -c 65536 "./$2"; } | sha256sum ;;
    *) sha256sum < "./$2" ;;
    esac | cut -d' ' -f1
    shift 2
done
"""
"""$1 a point's folder, then pairs of kind (`image` or `file`) and name: a digest on each line, in that order."""

PUBLISH = f"""
set -e
cd "$1"
parent=$3
[ -z "$parent" ] || [ -f "$parent/manifest.json" ] || exit {PARENT_MISSING}
incoming={INCOMING_PREFIX}$2
sync -f "$incoming" 2>/dev/null || sync
if [ -e "$2" ]; then
    [ "$(sha256sum < "$2/manifest.json" | cut -d' ' -f1)" = "$4" ] || exit {CHANGED}
    old={PARTIAL_PREFIX}old-$2
    rm -rf "./$old"
    mv "./$2" "./$old"
    mv "./$incoming" "./$2"
    sync -f . 2>/dev/null || sync
    rm -rf "./$old" "./$incoming.basis"
else
    mv "./$incoming" "./$2"
    sync -f . 2>/dev/null || sync
    rm -rf "./$incoming.basis"
fi
"""
"""$1 the VM's folder, $2 the point, $3 its parent or nothing, $4 the SHA-256 of the manifest that may be replaced."""

RECOVER = f"""
cd "$1" 2>/dev/null || exit 0
old={PARTIAL_PREFIX}old-$2
[ -d "$old" ] || exit 0
if [ -e "$2" ]; then rm -rf "./$old"; else mv "./$old" "./$2"; fi
"""
"""$1 the VM's folder, $2 the point: undoes a replacement that was cut off between its two renames."""

ROOM = f"""
df -Pk -- "$1" | tail -n 1
cd "$1/$2" && du -sk "{INCOMING_PREFIX}$3" 2>/dev/null
exit 0
"""
"""$1 the repository, $2 the VM's folder, $3 the point: df's line, and du's line of what has arrived, in KiB."""

BASIS = f"""
set -e
mkdir -p "$1"
cd "$1"
incoming={INCOMING_PREFIX}$2
old=$3
mkdir -p "$incoming.basis"
shift 3
for name do
    arrived=0
    [ ! -f "$incoming/$name" ] || arrived=$(wc -c < "$incoming/$name")
    before=0
    [ ! -f "$incoming.basis/$name.size" ] || before=$(cat "$incoming.basis/$name.size")
    if [ ! -f "$incoming.basis/$name" ] || [ "$arrived" -gt "$before" ]; then
        {{ [ "$arrived" -eq 0 ] || cat "$incoming/$name"; [ ! -f "$old/$name" ] || cat "$old/$name"; }} \\
            > "$incoming.basis/$name.new"
        mv "$incoming.basis/$name.new" "$incoming.basis/$name"
        echo "$arrived" > "$incoming.basis/$name.size"
    fi
    rm -f "./$incoming/$name"
done
"""
"""$1 the VM's folder, $2 the point, $3 an older one, then names of files: `.incoming-<time>.basis` gets each, what
has arrived of the new one followed by the older one, for rsync to build on. rsync itself builds on one file only."""
