"""Manifests: what is written is read back, and nothing else is taken for a manifest."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from kvm_backup.domain.chain import FullReason
from kvm_backup.domain.disk import LeftOut
from kvm_backup.domain.errors import DamagedManifestError
from kvm_backup.domain.point import (
    MANIFEST_BYTES_MAX,
    Consistency,
    Demotion,
    DiskMode,
    LeftOutDisk,
    Manifest,
    Mode,
    StoredDisk,
    parse,
    serialize,
)
from tests.unit.builders import a_disk, a_manifest, forged, signed

ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
MOMENTS = st.datetimes(datetime(1970, 1, 1), datetime(9999, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001
SIZES = st.integers(0, 2**63 - 1)
UUIDS = st.uuids().map(str)


@st.composite
def manifests(draw: st.DrawFn) -> Manifest:
    parent = draw(st.booleans())
    snapshot = not parent and draw(st.booleans())
    disks: list[StoredDisk] = []
    for target in draw(st.lists(st.from_regex(r"[a-z]{1,6}", fullmatch=True), min_size=1, max_size=4, unique=True)):
        sizes = {"virtual_size": draw(SIZES), "bytes_read": draw(SIZES), "source_path": draw(st.none() | ANY_TEXT)}
        if snapshot:
            host = {"mode": DiskMode.HOST, "file": None, "image_sha256": None, "host_path": draw(ANY_TEXT)}
            disks.append(a_disk(target, **sizes, **host))
        else:
            incremental = parent and (not disks or draw(st.booleans()))
            mode = DiskMode.INCREMENTAL if incremental else draw(st.sampled_from([DiskMode.FULL, DiskMode.WHOLE]))
            disks.append(a_disk(target, **sizes, mode=mode))
    return a_manifest(
        uuid=draw(UUIDS),
        vm_name=draw(ANY_TEXT),
        created=draw(MOMENTS),
        finished=draw(MOMENTS),
        mode=Mode.SNAPSHOT if snapshot else Mode.INCREMENTAL if parent else Mode.FULL,
        requested_mode=draw(st.sampled_from(Mode)),
        demotion=draw(st.none() | st.builds(Demotion, reason=st.sampled_from(FullReason), detail=ANY_TEXT)),
        parent="web--1a2b3c4d/20261121T020000Z" if parent else None,
        parent_uuid=draw(UUIDS) if parent else None,
        checkpoint=draw(st.none() | ANY_TEXT),
        snapshot=draw(ANY_TEXT) if snapshot else None,
        consistency=draw(st.sampled_from(Consistency)),
        disks=tuple(disks),
        left_out=tuple(
            draw(st.lists(st.builds(LeftOutDisk, target=ANY_TEXT, reason=st.sampled_from(LeftOut)), max_size=2))
        ),
        notices=tuple(draw(st.lists(ANY_TEXT | st.just('"digest": "' + "0" * 64 + '"'), max_size=3))),
    )


@given(manifests())
def test_a_manifest_that_was_written_is_read_back_equal(manifest: Manifest) -> None:
    assert parse(serialize(manifest), "x") == manifest


def test_the_same_manifest_is_always_the_same_bytes() -> None:
    assert serialize(a_manifest()) == serialize(a_manifest())


def test_every_flipped_bit_is_found() -> None:
    whole = serialize(a_manifest())
    missed = []
    for position in range(len(whole)):
        for bit in range(8):
            changed = bytearray(whole)
            changed[position] ^= 1 << bit
            try:
                parse(bytes(changed), "x")
            except DamagedManifestError:
                continue
            missed.append((position, bit))
    assert missed == []


@given(st.data())
def test_a_manifest_that_was_cut_short_or_grew_is_damaged(data: st.DataObject) -> None:
    whole = serialize(a_manifest())
    length = data.draw(st.integers(0, len(whole) - 1))
    for changed in (whole[:length], whole + whole[:length] + b" "):
        with pytest.raises(DamagedManifestError):
            parse(changed, "x")


@given(st.binary(max_size=300))
def test_rubbish_is_damaged_and_nothing_else(content: bytes) -> None:
    with pytest.raises(DamagedManifestError):
        parse(content, "x")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=300)
@given(st.sampled_from(sorted(Manifest.model_fields)), json_values)
def test_any_value_in_any_field_is_taken_as_it_is_or_is_damage(field: str, value: Any) -> None:
    """Signed by somebody who knows how; it must not crash, and nothing may be read as another value than it is."""
    try:
        read = parse(forged(a_manifest(), **{field: value}), "x")
    except DamagedManifestError:
        return
    taken = read.model_dump(mode="json")[field]
    assert taken == value
    assert type(taken) is type(value)


HOSTILE: dict[str, dict[str, Any]] = {
    "an id that climbs out": {"id": "../20261122T020000Z"},
    "an id with a third part": {"id": "web--1a2b3c4d/20261122T020000Z/x"},
    "an absolute id": {"id": "/web--1a2b3c4d/20261122T020000Z"},
    "an id with a newline": {"id": "web--1a2b3c4d/20261122T020000Z\n"},
    "an id with a wide digit": {"id": "web--1a2b3c4d/2026112２T020000Z"},
    "an id with a NUL": {"id": "web\0--1a2b3c4d/20261122T020000Z"},
    "a hidden id": {"id": ".partial--1a2b3c4d/20261122T020000Z"},
    "a parent that climbs out": {"parent": "../../etc/20261121T020000Z", "parent_uuid": "0" * 8 + "-0000" * 3},
    "a parent without an incremental disk": {
        "parent": "web--1a2b3c4d/20261121T020000Z",
        "parent_uuid": "00000000-0000-4000-8000-000000000001",
    },
    "a file that climbs out": {"files": [{"name": "../x", "bytes": 1, "sha256": "0" * 64}]},
    "an absolute file": {"files": [{"name": "/etc/passwd", "bytes": 1, "sha256": "0" * 64}]},
    "a hidden file": {"files": [{"name": ".x", "bytes": 1, "sha256": "0" * 64}]},
    "the manifest as a file": {"files": [{"name": "manifest.json", "bytes": 1, "sha256": "0" * 64}]},
    "a disk's file as another file": {"files": [{"name": "vda.qcow2", "bytes": 1, "sha256": "0" * 64}]},
    "a negative size": {"files": [{"name": "x", "bytes": -1, "sha256": "0" * 64}]},
    "a size beyond every disk": {"files": [{"name": "x", "bytes": 2**63, "sha256": "0" * 64}]},
    "a size in quotes": {"files": [{"name": "x", "bytes": "1", "sha256": "0" * 64}]},
    "a size that is true": {"files": [{"name": "x", "bytes": True, "sha256": "0" * 64}]},
    "a size that is a fraction": {"files": [{"name": "x", "bytes": 1.0, "sha256": "0" * 64}]},
    "a digest in capitals": {"files": [{"name": "x", "bytes": 1, "sha256": "A" * 64}]},
    "no disks": {"disks": []},
    "one disk twice": {"disks": [a_disk().model_dump(mode="json")] * 2},
    "too many disks": {"disks": [a_disk(f"d{n}").model_dump(mode="json") for n in range(513)]},
    "an unknown field": {"surprise": 1},
    "a missing field": {"vm_uuid": ...},
    "a later format": {"format": 2},
    "format 0": {"format": 0},
    "a time that is a number": {"created": 0},
    "a time without a zone": {"created": "2026-11-22T02:00:00"},
    "a time of another zone": {"created": "2026-11-22T02:00:00+01:00"},
    "a mode that is not one": {"mode": "differential"},
    "mode snapshot without a snapshot": {"mode": "snapshot"},
    "a name of a megabyte": {"vm_name": "x" * 1_000_000},
    "a lone surrogate": {"vm_name": "\ud800"},
    "null for a name": {"vm_name": None},
}


@pytest.mark.parametrize("changes", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_manifest_with_a_right_digest_is_damaged(changes: dict[str, Any]) -> None:
    assert parse(forged(a_manifest()), "x") == a_manifest()
    with pytest.raises(DamagedManifestError, match=r"^the manifest web/x is damaged: "):
        parse(forged(a_manifest(), **changes), "web/x")


def _with_text(change: Callable[[str], str]) -> bytes:
    text = forged(a_manifest()).decode()
    digest = json.loads(text)["digest"]
    return signed(change(text.replace(digest, "DIGEST")))


TEXTS: dict[str, Callable[[str], str]] = {
    "a key twice": lambda text: text.replace('"mode": "full",', '"mode": "full", "mode": "full",', 1),
    "a key twice in a disk": lambda text: text.replace('"target": "vda",', '"target": "vdb", "target": "vda",'),
    "the digest twice": lambda text: text.replace("{", '{"digest": "DIGEST",', 1),
    "NaN": lambda text: text.replace('"bytes_read": 1000', '"bytes_read": NaN'),
    "Infinity": lambda text: text.replace('"bytes_read": 1000', '"bytes_read": Infinity'),
    "a number of 5000 digits": lambda text: text.replace('"bytes_read": 1000', '"bytes_read": ' + "9" * 5000),
    "deep nesting": lambda text: text.replace('"notices": []', '"notices": ' + "[" * 90_000 + "]" * 90_000),
    "a list": lambda text: f"[{text}]",
    "a comment": lambda text: text + "// x",
    "a byte order mark": lambda text: "\ufeff" + text,
    "two documents": lambda text: text + "{}",
}


@pytest.mark.parametrize("change", TEXTS.values(), ids=TEXTS)
def test_json_that_is_not_what_we_write_is_damaged_though_its_digest_is_right(change: Callable[[str], str]) -> None:
    assert _with_text(lambda text: text) != _with_text(change)
    with pytest.raises(DamagedManifestError):
        parse(_with_text(change), "x")


def test_a_manifest_of_5_megabytes_is_refused_before_it_is_parsed() -> None:
    content = forged(a_manifest(), notices=["x" * 4000] * 1300)
    assert len(content) > MANIFEST_BYTES_MAX
    with pytest.raises(DamagedManifestError, match="larger than 4194304 bytes"):
        parse(content, "x")


def test_the_error_names_the_field() -> None:
    changes = {"files": [{"name": "../x", "bytes": 1, "sha256": "0" * 64}]}
    with pytest.raises(DamagedManifestError, match=r"files\.0\.name"):
        parse(forged(a_manifest(), **changes), "x")


INCREMENTAL = {"mode": Mode.INCREMENTAL, "disks": (a_disk(mode=DiskMode.INCREMENTAL),)}
PARENT_UUID = "00000000-0000-4000-8000-000000000001"


@pytest.mark.parametrize(
    ("parent", "why"),
    [
        ("web--1a2b3c4d/20261122T020000Z", "itself"),
        ("web--1a2b3c4d/20261123T020000Z", "a later point"),
        ("db--1a2b3c4d/20261121T020000Z", "a point of another VM"),
    ],
)
def test_a_parent_must_be_an_older_point_of_the_same_vm(parent: str, why: str) -> None:
    right = a_manifest(**INCREMENTAL, parent="web--1a2b3c4d/20261121T020000Z", parent_uuid=PARENT_UUID)
    assert right.parent_identity == f"web--1a2b3c4d/20261121T020000Z@{PARENT_UUID}"
    with pytest.raises(ValidationError, match="older point of the same VM folder"):
        a_manifest(**INCREMENTAL, parent=parent, parent_uuid=PARENT_UUID)


def test_an_incremental_disk_needs_a_parent_and_its_uuid() -> None:
    with pytest.raises(ValidationError, match="exactly when a disk is incremental"):
        a_manifest(**INCREMENTAL)
    with pytest.raises(ValidationError, match="exactly when a disk is incremental"):
        a_manifest(**INCREMENTAL, parent="web--1a2b3c4d/20261121T020000Z")


def test_a_time_of_another_zone_cannot_be_written_either() -> None:
    with pytest.raises(ValidationError, match="must be in UTC"):
        a_manifest(created=datetime(2026, 1, 1, tzinfo=timezone(timedelta(hours=1))))


@pytest.mark.parametrize(
    "changes",
    [
        {"mode": DiskMode.HOST},
        {"file": None},
        {"image_sha256": None},
        {"host_path": "/x"},
        {"mode": DiskMode.HOST, "file": None, "image_sha256": None, "host_path": None},
    ],
)
def test_a_disk_is_in_the_point_or_on_the_host_never_both_or_neither(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="host_path"):
        a_disk(**changes)


def test_sizes_are_summed_over_disks_and_files() -> None:
    manifest = a_manifest(disks=(a_disk("vda"), a_disk("vdb", bytes_stored=7)))
    assert manifest.bytes_stored == 500 + 7 + manifest.files[0].bytes
    assert manifest.bytes_read == 2000
    assert (manifest.folder, manifest.stamp) == ("web--1a2b3c4d", "20261122T020000Z")
    assert manifest.disk("vdc") is None
