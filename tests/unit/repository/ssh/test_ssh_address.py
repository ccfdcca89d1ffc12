"""Addresses of repositories on other servers, as written by people and by attackers."""

import re
import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvm_backup.domain.errors import BadArgumentError
from kvm_backup.repository.ssh.address import SshAddress


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("ssh://backup@nas.example/srv/vms", SshAddress("nas.example", "/srv/vms", "backup")),
        ("ssh://nas/srv//vms/", SshAddress("nas", "/srv/vms")),
        ("ssh://backup@nas:2222/", SshAddress("nas", "/", "backup", 2222)),
        ("ssh://root@[2001:db8::1]:22/a", SshAddress("2001:db8::1", "/a", "root", 22)),
        ("ssh://nas/sauvegardes/données", SshAddress("nas", "/sauvegardes/données")),
    ],
)
def test_an_address_is_taken_apart(url: str, address: SshAddress) -> None:
    assert SshAddress.parse(url) == address


@pytest.mark.parametrize(
    "url",
    [
        "nas:/srv",
        "http://nas/srv",
        "ssh://nas",
        "ssh:///srv",
        "ssh://-oProxyCommand=id/srv",
        "ssh://-oProxyCommand=id@nas/srv",
        "ssh://nas/-rf",
        "ssh://nas/srv/../etc",
        "ssh://nas/a b",
        "ssh://nas/$(id)",
        "ssh://nas/`id`",
        "ssh://nas/a;id",
        "ssh://nas/a\nb",
        "ssh://nas/*",
        "ssh://nas/~root",
        "ssh://nas:0/srv",
        "ssh://nas:70000/srv",
        "ssh://nas:22x/srv",
        "ssh://nas:/srv",
        "ssh://[::1/srv",
        "ssh://[nas]/srv",
        "ssh://[fe80::1%eth0]/srv",
        "ssh://a@b@nas/srv",
        f"ssh://nas/{'x/' * 1000}",
    ],
)
def test_what_could_mean_something_else_to_ssh_or_a_shell_is_refused(url: str) -> None:
    with pytest.raises(BadArgumentError):
        SshAddress.parse(url)


def test_a_password_is_refused_and_not_repeated() -> None:
    with pytest.raises(BadArgumentError) as refused:
        SshAddress.parse("ssh://backup:hunter2@nas/srv")
    assert "hunter2" not in refused.value.message + refused.value.hint


@given(st.text(max_size=40), st.text(max_size=20), st.text(max_size=40))
def test_what_is_accepted_is_plain_words_and_reads_back_the_same(login: str, place: str, path: str) -> None:
    try:
        address = SshAddress.parse(f"ssh://{login}@{place}/{path}")
    except BadArgumentError:
        return
    words = [*address.login_words[1::2], address.host, *address.path.strip("/").split("/")]
    assert not any(word.startswith("-") for word in words)
    assert not re.search(r"[\s\"'`$;&|<>*?\\(){}!#~%]", "".join(words))
    assert shlex.split(address.path) == [address.path]
    assert "/../" not in f"{address.path}/"
    assert SshAddress.parse(str(address)) == address
