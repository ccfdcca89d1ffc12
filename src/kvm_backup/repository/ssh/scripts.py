"""What is run on the server where the account has a shell: POSIX sh, its words given as $1, $2, …, never put into it.

Statuses above 70 are ours; sh and its programs use small ones.
"""

from kvm_backup.domain.names import PARTIAL_PREFIX
from kvm_backup.domain.point import MANIFEST_FILE
from kvm_backup.repository.local import REMOVED_PREFIX

INCOMING_PREFIX = ".incoming-"
"""A point that is arriving. Readers see no folder of such a name, and no run on that server takes it for its own."""

MARKER = "kvm-backup-shell"
PROBE = f"command -v sha256sum >/dev/null &&\ncommand -v rsync >/dev/null && echo {MARKER}"
"""Of two lines: a login shell that does not hand those on, as csh, is none for us."""

PARENT_MISSING = 71
CHANGED = 72
HAS_CHILD = 73

LOOK = """
cd "$1" 2>/dev/null || { echo absent; exit 0; }
[ -d "$2" ] || { echo absent; exit 0; }
sha256sum < "$2/$3" | cut -d' ' -f1
"""
"""$1 the VM's folder, $2 the point, $3 its manifest's file: `absent`, or the SHA-256 of its manifest's bytes (of
nothing, without one)."""

DIGESTS = """
cd "$1" || exit 1
shift
digest() { sha256sum; }
case "$(openssl dgst -sha256 -r < /dev/null 2>/dev/null)" in
e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855*) digest() { openssl dgst -sha256 -r; } ;;
esac
while [ $# -gt 1 ]; do
    if [ ! -f "./$2" ] || [ -L "./$2" ]; then
        echo missing
    else
        case "$1" in
        image) { tail -c +65537 "./$2" && head -c 65536 "./$2"; } | digest ;;
        *) digest < "./$2" ;;
        esac | cut -d' ' -f1
    fi
    shift 2
done
"""
"""$1 a point's folder, then pairs of kind (`image` or `file`) and name: a digest, or `missing`, on each line.

OpenSSL, where it is there and knows the digest of nothing, uses the processor's own instructions: on a machine that
has them it was 3.6 times as fast as sha256sum of coreutils 9.1.
"""

PUBLISH = f"""
set -e
cd "$1"
parent=$3
[ -z "$parent" ] || [ -f "$parent/$5" ] || exit {PARENT_MISSING}
incoming={INCOMING_PREFIX}$2
sync -f "$incoming" 2>/dev/null || sync
if [ -e "$2" ]; then
    [ "$(sha256sum < "$2/$5" | cut -d' ' -f1)" = "$4" ] || exit {CHANGED}
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
"""$1 the VM's folder, $2 the point, $3 its parent or nothing, $4 the SHA-256 of the manifest that may be
replaced, $5 the name of manifests."""

RECOVER = f"""
cd "$1" 2>/dev/null || exit 0
old={PARTIAL_PREFIX}old-$2
[ -d "$old" ] || exit 0
if [ -e "$2" ]; then rm -rf "./$old"; else mv "./$old" "./$2"; fi
"""
"""$1 the VM's folder, $2 the point: undoes a replacement that was cut off between its two renames."""

ROOM = f"""
df -Pk -- "$1" | tail -n 1
incoming={INCOMING_PREFIX}$3
arrived=0
older=0
cd "$1/$2" 2>/dev/null || {{ echo 0 0; exit 0; }}
base=$4
shift 4
for name do
    [ ! -f "$incoming/$name" ] || arrived=$((arrived + $(wc -c < "$incoming/$name")))
    [ -z "$base" ] || [ ! -f "$base/$name" ] || older=$((older + $(wc -c < "$base/$name")))
done
echo "$arrived $older"
"""
"""$1 the repository, $2 the VM's folder, $3 the point, $4 an older one or nothing, then names of files: df's line,
and the bytes that these files have of what has arrived and in the older point."""

JOIN = "join"
LINK = "link"
BASIS = f"""
set -e
mkdir -p "$1"
cd "$1"
incoming={INCOMING_PREFIX}$2
old=$3
how=$4
mkdir -p "$incoming.basis"
shift 4
for name do
    arrived=0
    [ ! -f "$incoming/$name" ] || arrived=$(wc -c < "$incoming/$name")
    before=0
    [ ! -f "$incoming.basis/$name.size" ] || before=$(cat "$incoming.basis/$name.size")
    if [ "$arrived" -gt "$before" ] && [ "$how" = {JOIN} ]; then
        {{ cat "$incoming/$name"; [ ! -f "$old/$name" ] || cat "$old/$name"; }} > "$incoming.basis/$name.new"
        mv "$incoming.basis/$name.new" "$incoming.basis/$name"
        echo "$arrived" > "$incoming.basis/$name.size"
    elif [ ! -f "$incoming.basis/$name" ] && [ -f "$old/$name" ]; then
        ln "$old/$name" "$incoming.basis/$name" 2>/dev/null || cp "$old/$name" "$incoming.basis/$name"
    fi
    rm -f "./$incoming/$name"
done
"""
"""$1 the VM's folder, $2 the point, $3 an older one, $4 `join` or `link`, then names of files: for rsync to build on,
`.incoming-<time>.basis` gets the older one of each, behind what has arrived of the new one, unless there is no room
for a joined copy. rsync itself builds on one file only."""

REMOVE = f"""
set -e
cd "$1" 2>/dev/null || exit 0
gone={REMOVED_PREFIX}$2
if [ -d "./$2" ]; then
    child=$(grep -lF -e "$3" -- ./[0-9]*T[0-9]*Z/{MANIFEST_FILE} 2>/dev/null | head -n 1)
    [ -z "$child" ] || {{ echo "$child"; exit {HAS_CHILD}; }}
    rm -rf "./$gone"
    mv "./$2" "./$gone"
    sync -f . 2>/dev/null || sync
fi
rm -rf "./$gone" "./{PARTIAL_PREFIX}old-$2" "./{INCOMING_PREFIX}$2"-*
rmdir "../${{1##*/}}" 2>/dev/null || :
"""
"""$1 the VM's folder, $2 the point, $3 how a manifest names it as its parent: with one rename it is no longer
visible, then its files go, and the second names that an arrival by rsync alone left them."""

CLEAR = f"""
cd "$1" || exit 1
for left in ./*--*/{INCOMING_PREFIX}* ./*--*/{PARTIAL_PREFIX}removed-* ./*--*/{PARTIAL_PREFIX}old-*; do
    [ -d "$left" ] && [ ! -L "$left" ] || continue
    case "$left" in
    */{PARTIAL_PREFIX}old-*) [ -e "${{left%%/{PARTIAL_PREFIX}old-*}}/${{left##*-}}" ] || continue ;;
    esac
    young=$(find "$left" -cmin "-$2") || continue
    [ -n "$young" ] || rm -rf "$left"
done
"""
"""$1 the repository, $2 minutes: removes what was left behind and has not been touched for so long, by the clock of
that server's file system (ctime, which no transfer sets). What a replacement moved aside and did not put back
stays."""
