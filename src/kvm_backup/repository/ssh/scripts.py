"""What is run on the server where the account has a shell: POSIX sh, its words given as $1, $2, …, never put into it.

Statuses above 70 are ours; sh and its programs use small ones.
"""

from kvm_backup.domain.names import PARTIAL_PREFIX
from kvm_backup.domain.point import MANIFEST_FILE
from kvm_backup.repository.local import REMOVED_PREFIX

INCOMING_PREFIX = ".incoming-"
"""A point that is arriving. Readers see no folder of such a name, and no run on that server takes it for its own."""

NOTHING_SHA256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

MARKER = "kvm-backup-shell"
PROBE = f"""command -v sha256sum >/dev/null && command -v rsync >/dev/null &&
mv --help 2>&1 | grep -q -e -T && echo {MARKER}"""
"""Of two lines: a login shell that does not hand those on, as csh, is none for us. `mv -T` (GNU, BusyBox) never moves
into a folder that somebody else made meanwhile."""

PARENT_MISSING = 71
CHANGED = 72
HAS_CHILD = 73
LINKED = 74

_NO_LINK = f'[ ! -L "$1" ] || exit {LINKED}'
"""The VM's folder may be one that a thief of the key that adds put there. A real one stays: that key removes
nothing."""

PREPARE = f"""
set -e
mkdir -p "$1"
{_NO_LINK}
cd "$1"
old={PARTIAL_PREFIX}old-$2
for link in "$2" "$old" "$3" "$3.basis"; do
    [ ! -L "$link" ] || rm -f "./$link"
done
if [ -d "$old" ] && [ ! -e "$2" ]; then mv -T "./$old" "./$2"; fi
mkdir -p "$3"
find "./$3" ! -type d ! -links 1 -exec rm -f {{}} +
find "./$3" ! -type d ! -type f -exec rm -f {{}} +
"""
"""$1 the VM's folder, $2 the point, $3 the name of the folder that it arrives in: makes that one, and sees to it that
nothing in it is the same file as one elsewhere. A replacement that was cut off between its two renames is undone;
what stands in the place of the old point is not trusted until another shipment has put it there."""

LOOK = """
cd "$1" 2>/dev/null || { echo absent; exit 0; }
[ -d "$2" ] && [ ! -L "$2" ] || { echo absent; exit 0; }
if [ -f "$2/$3" ]; then sha256sum < "$2/$3"; else sha256sum < /dev/null; fi | cut -d' ' -f1
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
{_NO_LINK}
cd "$1"
incoming=$3
parent=$4
[ -z "$parent" ] || [ -f "$parent/$6" ] || exit {PARENT_MISSING}
sync -f "$incoming" 2>/dev/null || sync
old={PARTIAL_PREFIX}old-$2
if [ -e "$2" ]; then
    there=
    [ ! -f "$2/$6" ] || there=$(sha256sum < "$2/$6" | cut -d' ' -f1)
    [ "${{there:-{NOTHING_SHA256}}}" = "$5" ] || exit {CHANGED}
    rm -rf "./$old"
    mv -T "./$2" "./$old"
fi
mv -T "./$incoming" "./$2"
sync -f . 2>/dev/null || sync
rm -rf "./$old" "./$incoming.basis"
"""
"""$1 the VM's folder, $2 the point, $3 the folder that it arrived in, $4 its parent or nothing, $5 the SHA-256 of the
manifest that may be replaced, $6 the name of manifests."""

TIDY = f"""
{_NO_LINK}
cd "$1" 2>/dev/null || exit 0
rm -rf "./{PARTIAL_PREFIX}old-$2" "./$3" "./$3.basis"
"""
"""$1 the VM's folder, $2 the point, $3 the folder that it would arrive in: what is there of a point that is there,
checked, and needs none of it."""

ROOM = """
df -Pk -- "$1" | tail -n 1
incoming=$3
arrived=0
older=0
cd "$1/$2" 2>/dev/null || { echo 0 0; exit 0; }
base=$4
shift 4
for name do
    [ ! -f "$incoming/$name" ] || arrived=$((arrived + $(wc -c < "$incoming/$name")))
    [ -z "$base" ] || [ ! -f "$base/$name" ] || older=$((older + $(wc -c < "$base/$name")))
done
echo "$arrived $older"
"""
"""$1 the repository, $2 the VM's folder, $3 the folder that a point arrives in, $4 an older point or nothing, then
names of files: df's line, and the bytes that these files have of what has arrived and in the older point."""

JOIN = "join"
LINK = "link"
BASIS = f"""
set -e
{_NO_LINK}
cd "$1"
incoming=$2
old=$3
how=$4
mkdir -p "$incoming.basis"
shift 4
for name do
    arrived=0
    [ ! -f "$incoming/$name" ] || arrived=$(wc -c < "$incoming/$name")
    before=0
    [ ! -f "$incoming.basis/$name.size" ] || before=$(cat "$incoming.basis/$name.size")
    rm -f "./$incoming.basis/$name.new"
    if [ "$arrived" -gt "$before" ] && [ "$how" = {JOIN} ]; then
        {{ cat "$incoming/$name"; [ ! -f "$old/$name" ] || cat "$old/$name"; }} > "$incoming.basis/$name.new"
        mv "$incoming.basis/$name.new" "$incoming.basis/$name"
        rm -f "./$incoming.basis/$name.size"
        echo "$arrived" > "$incoming.basis/$name.size"
    elif [ ! -f "$incoming.basis/$name" ] && [ -f "$old/$name" ]; then
        ln "$old/$name" "$incoming.basis/$name" 2>/dev/null || cp "$old/$name" "$incoming.basis/$name"
    fi
    rm -f "./$incoming/$name"
done
"""
"""$1 the VM's folder, $2 the folder that a point arrives in, $3 an older point, $4 `join` or `link`, then names of
files: for rsync to build on, a folder beside it of that name and `.basis` gets the older one of each, behind what has
arrived of the new one, unless there is no room for a joined copy. rsync itself builds on one file only."""

REMOVE = f"""
set -e
{_NO_LINK}
cd "$1" 2>/dev/null || exit 0
gone={REMOVED_PREFIX}$2
if [ -L "./$2" ]; then
    rm -f "./$2"
elif [ -d "./$2" ]; then
    for manifest in ./[0-9]*T[0-9]*Z/{MANIFEST_FILE}; do
        # Neither a link nor a pipe, which would be waited for.
        [ -f "$manifest" ] && [ ! -L "$manifest" ] || continue
        if grep -qF -e "$3" -- "$manifest"; then echo "$manifest"; exit {HAS_CHILD}; fi
    done
    rm -rf "./$gone"
    mv -T "./$2" "./$gone"
    sync -f . 2>/dev/null || sync
fi
rm -rf "./$gone" "./{PARTIAL_PREFIX}old-$2" "./{INCOMING_PREFIX}$2"-*
rmdir "../${{1##*/}}" 2>/dev/null || :
"""
"""$1 the VM's folder, $2 the point, $3 how a manifest names it as its parent: with one rename it is no longer
visible, then its files go, and what arrived of it, which an arrival by rsync alone leaves as second names."""

CLEAR = f"""
cd "$1" || exit 1
for vm in ./*--*; do
    [ -d "$vm" ] && [ ! -L "$vm" ] || continue
    for left in "$vm"/{INCOMING_PREFIX}* "$vm"/{PARTIAL_PREFIX}removed-*; do
        [ -d "$left" ] && [ ! -L "$left" ] || continue
        young=$(find "$left" -cmin "-$2") || continue
        [ -n "$young" ] || rm -rf "$left"
    done
done
"""
"""$1 the repository, $2 minutes: removes what was left behind and has not been touched for so long, by the clock of
that server's file system (ctime, which no transfer sets). What a replacement moved aside stays until the point is
shipped or removed: what stands in its place may be somebody else's."""
