"""The rules that a confined QEMU needs."""

from pathlib import Path

from kvm_backup.hypervisor.apparmor import missing_rules

FOLDERS = [Path("/var/lib/kvm-backup/run"), Path("/srv/scratch files")]


def test_both_folders_lack_a_rule_when_there_is_no_file(tmp_path: Path) -> None:
    assert missing_rules(FOLDERS, tmp_path / "absent") == [
        '"/var/lib/kvm-backup/run/**" rwk,',
        '"/srv/scratch files/**" rwk,',
    ]


def test_a_rule_that_is_there_is_not_asked_for_again(tmp_path: Path) -> None:
    rules = tmp_path / "libvirt-qemu"
    rules.write_text('# ours\n  "/var/lib/kvm-backup/run/**" rwk,\n', encoding="utf-8")
    assert missing_rules(FOLDERS, rules) == ['"/srv/scratch files/**" rwk,']


def test_a_rule_in_a_comment_does_not_count(tmp_path: Path) -> None:
    rules = tmp_path / "libvirt-qemu"
    rules.write_text('# "/var/lib/kvm-backup/run/**" rwk,\n', encoding="utf-8")
    assert len(missing_rules(FOLDERS, rules)) == 2
