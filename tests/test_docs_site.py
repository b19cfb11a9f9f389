"""The pages of docs/ as a site: every page is in the navigation, links hold, and it works from a folder, offline."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parent.parent
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Sphinx warns of pages that the navigation leaves out and of links to headings that it makes otherwise."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-d", str(folder / "seen")]
    done = subprocess.run([*command, "docs", str(folder / "html")], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder / "html"


def test_the_site_needs_no_network(site):
    pages = list(site.rglob("*.html"))
    assert len(pages) > 25
    text = "".join(path.read_text(encoding="utf-8") for path in pages)
    assert not re.findall(r'<(?:script|link|img)[^>]+(?:src|href)="(?:https?:)?//[^"]+', text)


def test_every_page_is_in_the_navigation(site):
    sidebar = (site / "index.html").read_text(encoding="utf-8")
    for page in sorted((ROOT / "docs").rglob("*.md")):
        name = page.relative_to(ROOT / "docs").with_suffix(".html").as_posix()
        assert name == "index.html" or f'href="{name}"' in sidebar


@pytest.mark.skipif(CHROMIUM is None, reason="needs an installed Chromium (apt-get install chromium)")
def test_its_search_works_from_a_folder(site):
    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page()
        page.goto((site / "index.html").as_uri())
        page.fill("input[name=q]", "learning rate")
        page.press("input[name=q]", "Enter")
        page.wait_for_selector("#search-results li a")
        page.wait_for_function("document.querySelector('.search-summary').textContent.includes('found')")
        found = [link.inner_text() for link in page.query_selector_all("#search-results li a")]
        said = page.inner_text(".search-summary")
        browser.close()
    assert "Commands" in found
    assert re.fullmatch(r"Search finished, found \d+ pages matching the search query\.", said)
