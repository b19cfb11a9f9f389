"""The pages in a real browser: nothing is fetched or run, everything fits a phone and can be read in light and dark.

Chromium is started once, shows every page, and ends; the tests are about what was seen.
"""

import shutil
from dataclasses import dataclass, field

import pytest
from playwright import sync_api as playwright

from seal_lightning.report.costs import Prices
from seal_lightning.report.page import render
from seal_lightning.report.read import read
from seal_lightning.results.accuracy import ResultFile
from seal_lightning.results.table import Table

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs an installed Chromium (apt-get install chromium)")

ARGUMENTS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
).split()
EVIL = (
    "<script>window.hit=1</script></style></textarea></details><img src=x onerror=window.hit=2>"
    "<svg onload=window.hit=3>\"'><a href=javascript:window.hit=4>{{ 7*7 }}{% raw %}\x00\x1b[31m\u202eabc\u2066&lt;"
)
SLIPPED = "<script>window.hit=1</script><img src=https://example.invalid/x.png onerror=window.hit=2>"
LONG = "A" * 60_000 + " word" * 8_000  # 100 kB, most of it without a space
# The least contrast of a text with what lies behind it; canvas turns any colour into numbers, and layers backgrounds.
CONTRAST = """() => {
  const canvas = document.createElement('canvas'); canvas.width = canvas.height = 1;
  const pen = canvas.getContext('2d', {willReadFrequently: true});
  const paint = colours => {
    pen.clearRect(0, 0, 1, 1);
    for (const colour of colours) { pen.fillStyle = colour; pen.fillRect(0, 0, 1, 1); }
    return [...pen.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const light = rgb => {
    const [r, g, b] = rgb.map(c => c / 255).map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  let least = {ratio: 99};
  let seen = 0;
  for (const element of document.body.querySelectorAll('*')) {
    const text = [...element.childNodes].filter(n => n.nodeType === 3).map(n => n.data.trim()).join('');
    if (!text || !element.getClientRects().length) continue;
    const behind = [];
    for (let up = element; up; up = up.parentElement) behind.unshift(getComputedStyle(up).backgroundColor);
    const style = getComputedStyle(element);
    const colour = element instanceof SVGElement ? style.fill : style.color;
    const [a, b] = [light(paint(behind)), light(paint([...behind, colour]))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    seen += 1;
    if (ratio < least.ratio) least = {ratio, text: text.slice(0, 40), colour, behind: behind.at(-1)};
  }
  return {...least, seen};
}"""


# Where the figure of groups ends, in pixels from the top of the page; null where there is none.
BOTTOM = "document.querySelector('svg.groups')?.getBoundingClientRect().bottom ?? null"


@dataclass
class Seen:
    """What a browser saw of one page."""

    size: int
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    failures: list[str | None] = field(default_factory=list)
    hit: object = None
    text: str = ""
    markup: str = ""
    overflow: dict = field(default_factory=dict)
    contrast: dict = field(default_factory=dict)
    background: dict = field(default_factory=dict)
    bottom: dict = field(default_factory=dict)


def evil_run(runs, folder):
    """Whatever a model, a file or a user can write is hostile."""
    texts = {"context_id": EVIL, "prompt": EVIL, "text": EVIL, "questions": (EVIL,), "golds": ((EVIL,),)}
    answers = {"baseline_answers": (EVIL,), "answers": (EVIL,), "baseline_scores": (0.0,), "scores": (1.0,)}
    others = {"asked": {EVIL: EVIL}, "tokens": {"edit": 3, EVIL: 1}, "seconds": {EVIL: 1.0},
              "usage": {EVIL: {"requests": 1}}, "terms": {EVIL: 1.0}}  # fmt: skip
    best = runs.scored(1.0, **texts, **answers, **others)
    worst = runs.scored(0.0, **{**texts, "text": LONG}, **answers, edit_index=1)
    unit = [best, worst, runs.rejected(**texts, reason=EVIL, edit_index=2, baseline_answers=(), baseline_scores=())]
    held_out = [runs.scored(0.5, **texts, **answers)]
    config = {"model": {"source": {"name": EVIL}, EVIL: EVIL}, "trainer": {"max_epochs": 2}}
    names = {"train-000": [unit], "train-001": [unit], "validation-000": [held_out], "validation-001": [held_out]}
    runs.write(folder, names, config=config)
    (folder / "settings.yaml").write_bytes((folder / "config.yaml").read_bytes())
    ResultFile([], [Table(EVIL, (EVIL, "b"), ((EVIL, 1),))], [EVIL]).save(folder / "fit.json")
    return folder


def large_run(runs, folder):
    """750 rollouts, each of 2 kB."""
    unit = [
        runs.scored((context * index % 7) / 6, context_id=f"context {context}", edit_index=index, text="word " * 400)
        for context in range(50)
        for index in range(15)
    ]
    matrix = '{"name": "plain", "dataset": "d", "base_model": "b", "streams": [{"name": "s", "contexts": ["a", "b"], '
    rows = '"rows": [[0.1, 0.2], [0.9, 0.1], [0.4, 1.0]], "unrelated": [0.5, 0.4, 0.3]}]}'
    folder = runs.write(folder, {"train-000": [unit], "train-001": [unit]})
    (folder / "retention.json").write_text(f'{{"matrices": [{matrix}{rows}]}}')
    return folder


def look(browser, path, size):
    seen = Seen(size)
    for scheme, width in (("light", 1180), ("dark", 390)):
        context = browser.new_context(color_scheme=scheme, viewport={"width": width, "height": 800})
        page = context.new_page()
        page.on("request", lambda request: seen.requests.append(request.url))
        page.on("requestfailed", lambda request: seen.failures.append(request.failure))
        page.on("console", lambda message: seen.complaints.append(message.text))
        page.on("pageerror", lambda error: seen.complaints.append(str(error)))
        page.on("dialog", lambda dialog: seen.complaints.append(dialog.message))
        page.goto(path.as_uri())
        seen.bottom[width] = page.evaluate(BOTTOM)
        page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
        seen.hit = seen.hit or page.evaluate("window.hit ?? null")
        seen.text = page.evaluate("document.body.textContent")
        sizes = "[document.documentElement.scrollWidth, document.documentElement.clientWidth]"
        seen.overflow[width] = page.evaluate(sizes)
        seen.contrast[scheme] = page.evaluate(CONTRAST)
        seen.background[scheme] = page.evaluate("getComputedStyle(document.body).backgroundColor")
        context.close()
    return seen


@pytest.fixture(scope="module")
def seen(runs, tmp_path_factory):
    """What was seen of each page, by its name."""
    folder = tmp_path_factory.mktemp("pages")
    made = (evil_run(runs, folder / "evil"), large_run(runs, folder / "large"), runs.write(folder / "begun", {}))
    evil, large, begun = (read(str(run)) for run in made)
    six = [read(str(run)) for run in runs.six(folder / "six")]
    contents = {"evil": [evil], "large": [large], "several": [large, evil, begun], "groups": six}
    pages = {name: render(content, now=0, prices=Prices())[0] for name, content in contents.items()}
    pages["slipped"] = render([begun], now=0, prices=Prices())[0].replace("</main>", f"{SLIPPED}</main>")
    found = {}
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        for name, text in pages.items():
            path = folder / f"{name}.html"
            path.write_text(text, encoding="utf-8")
            found[name] = look(browser, path, path.stat().st_size)
        browser.close()
    return found


PAGES = ("evil", "large", "several", "groups")


@pytest.mark.parametrize("name", PAGES)
def test_nothing_is_fetched_run_or_complained_about(seen, name):
    page = seen[name]
    assert [url.rpartition("/")[2] for url in page.requests] == [f"{name}.html"] * 2
    assert (page.complaints, page.hit) == ([], None)


@pytest.mark.parametrize("name", PAGES)
def test_a_phone_never_scrolls_sideways(seen, name):
    for width, (needed, there) in seen[name].overflow.items():
        assert (needed, there) == (width, width)


@pytest.mark.parametrize("name", PAGES)
def test_every_text_can_be_read_in_light_and_dark(seen, name):
    page = seen[name]
    assert page.background == {"light": "rgb(252, 251, 248)", "dark": "rgb(20, 23, 26)"}
    for scheme, least in page.contrast.items():
        assert least["seen"] > 100
        assert least["ratio"] >= 4.5, (scheme, least)


def test_hostile_texts_are_shown_as_they_are(seen):
    text = seen["evil"].text
    shown = EVIL.replace("\x00", "⟨U+0000⟩").replace("\x1b", "⟨U+001B⟩").replace("\u202e", "⟨U+202E⟩")
    assert text.count(shown.replace("\u2066", "⟨U+2066⟩")) > 5
    assert "\u202e" not in text and "49" not in text.partition("{{ 7*7 }}")[0][-200:]


def test_six_runs_in_two_settings_fit_one_screen(seen):
    """One table and one figure, 800 pixels high at most; everything else is folded below."""
    page = seen["groups"]
    assert page.bottom[1180] <= 800
    assert "6 runs in 2 groups, which differ in filter. Runs of a group differ only in their seed." in page.text
    assert "Intervals are 95 %, over 3 seeds (Student's t)." in page.text


def test_pages_stay_small(seen):
    assert seen["evil"].size < 200_000  # an edit of 100 kB is in it several times, shortened
    assert seen["large"].size < 500_000
    assert "A" * 7_000 in seen["evil"].text and "A" * 9_000 not in seen["evil"].text
    assert "The rest is in the journal." in seen["evil"].text


def test_what_slips_through_cannot_run_or_fetch(seen):
    page = seen["slipped"]
    assert page.hit is None
    assert [url.rpartition("/")[2] for url in page.requests] == ["slipped.html", "x.png"] * 2
    assert page.failures == ["csp"] * 2  # the browser refused to ask
    assert "inline script" in " ".join(page.complaints)
