"""Files that never change at their address, and nothing but those files."""

import re
from pathlib import Path

import httpx
import pytest

from kvm_backup.web.assets import Assets


def test_a_page_names_files_that_the_browser_may_keep_for_ever(visitor: httpx.Client) -> None:
    page = visitor.get("/login").text
    named = re.findall(r'(?:src|href)="(/static/[^"]+)"', page)
    assert len(named) >= 5
    for address in named:
        answer = visitor.get(address)
        assert answer.status_code == 200
        assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
        expected = {"js": "text/javascript", "css": "text/css", "svg": "image/svg+xml"}[address.rsplit(".", 1)[1]]
        assert answer.headers["content-type"].startswith(expected)


def test_the_modules_that_a_script_imports_are_beside_it(visitor: httpx.Client) -> None:
    address = re.findall(r'src="(/static/[^"]+/app\.js)"', visitor.get("/login").text)[0]
    imported = re.findall(r'from "\./([^"]+)"', visitor.get(address).text)
    assert imported
    for name in imported:
        assert visitor.get(address.replace("app.js", name)).status_code == 200


def test_an_address_from_before_an_upgrade_gives_the_new_file_for_once(visitor: httpx.Client) -> None:
    answer = visitor.get("/static/0000000000000000/app.css")
    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "no-cache"


@pytest.mark.parametrize(
    "path",
    ["/static/x/none.css", "/static/x/../app.py", "/static/x/%2e%2e/app.py", "/static/x//etc/passwd", "/static/x/"],
)
def test_nothing_else_is_served(visitor: httpx.Client, path: str) -> None:
    answer = visitor.get(path, headers={"Accept": "*/*"}, follow_redirects=False)
    assert answer.status_code in (401, 404)
    assert "root:" not in answer.text


def test_the_address_changes_with_the_content_of_any_file(tmp_path: Path) -> None:
    (tmp_path / "a.js").write_text("1")
    before = Assets.load(tmp_path)
    (tmp_path / "a.js").write_text("2")
    after = Assets.load(tmp_path)
    assert before.url("a.js") != after.url("a.js")
    (tmp_path / "b.js").write_text("1")
    assert Assets.load(tmp_path).url("a.js") != after.url("a.js")
    with pytest.raises(KeyError):
        after.url("b.js")


def test_what_others_wrote_is_kept_with_its_version_and_its_licence() -> None:
    names = [name.removeprefix("vendor/") for name in Assets.load().files if name.startswith("vendor/")]
    scripts = [name for name in names if name.endswith(".js")]
    assert len(scripts) == 2
    for script in scripts:
        versioned = re.fullmatch(r"([a-z-]+-\d+\.\d+\.\d+)(?:\.min)?\.js", script)
        assert versioned
        assert f"{versioned[1]}.LICENSE.txt" in names
