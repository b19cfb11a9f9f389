"""`seal report` as a command: what it writes, and what it says when it cannot."""

import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from importlib.resources import files
from itertools import pairwise
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from seal_lightning.cli import main
from seal_lightning.report.chapters import sentence_of
from seal_lightning.report.measure import measure
from seal_lightning.report.read import read
from seal_lightning.results.left_out import MISSING
from seal_lightning.results.pairing import digest_of
from seal_lightning.results.retention import ContextStream, average, write_matrices
from seal_lightning.results.table import Table

CONFIG = Path(str(files("seal_lightning.configs") / "debug" / "random.yaml"))


class Outline(HTMLParser):
    """Headings, ids, links within the page, and the names of all elements."""

    def __init__(self, text):
        super().__init__()
        self.headings, self.ids, self.links, self.tags = [], [], [], set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        values = dict(attrs)
        if tag in ("h1", "h2", "h3", "h4", "h5"):
            self.headings.append(int(tag[1]))
        if "id" in values:
            self.ids.append(values["id"])
        if tag == "a":
            self.links.append(values["href"])


@pytest.fixture
def report(capfd):
    """Run `seal report`; gives its exit code and what it said."""

    def run(*args):
        capfd.readouterr()
        code = main(["report", *map(str, args)])
        printed = capfd.readouterr()
        return code, printed.out or printed.err

    return run


def test_two_files_in_the_run_folder(report, fitted):
    folder = fitted()
    code, said = report(folder)
    html, markdown = (folder / f"report.{end}" for end in ("html", "md"))
    size = f"{html.stat().st_size / 1000:,.0f} kB"
    assert (code, said) == (0, f"report: {html} ({size}) and {markdown}\n")
    outline = Outline(html.read_text())
    assert outline.headings[0] == 1 and outline.headings.count(1) == 1
    assert all(later <= earlier + 1 for earlier, later in pairwise(outline.headings)), "a level of headings is left out"
    assert len(set(outline.ids)) == len(outline.ids)
    assert {link.removeprefix("#") for link in outline.links} <= set(outline.ids)
    assert not {"script", "img", "link", "iframe", "object", "embed", "form", "base"} & outline.tags
    assert "sk-123456" not in html.read_text() + markdown.read_text()


def test_the_report_is_written_again_and_elsewhere(report, fitted, tmp_path):
    folder, place = fitted(), tmp_path / "new" / "about.html"
    assert report(folder)[0] == report(folder)[0] == 0
    assert report(folder, "--output", place)[0] == 0
    assert sorted(path.name for path in place.parent.iterdir()) == ["about.html", "about.md"]


@pytest.mark.parametrize(("output", "taken"), [(None, "report.md"), ("fit.html", "fit.md"), ("a.html", "a.html")])
def test_only_a_report_is_written_over(report, fitted, output, taken):
    folder = fitted()
    (folder / taken).write_text("| adapted to | accuracy |\n")
    before = {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    code, said = report(folder, *(["--output", folder / output] if output else []))
    assert (code, said.count("\n")) == (2, 1)
    assert f"{folder / taken}: expected a new file or an earlier report" in said
    assert {path: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before


def test_several_runs_on_one_page(report, fitted, runs):
    model = {**runs.config["model"], "source": {"name": "big"}}
    one, other = fitted("one"), fitted("other", config={**runs.config, "model": model})
    assert report(one, other)[0] == 0
    outline = Outline((one / "report.html").read_text())
    assert len(set(outline.ids)) == len(outline.ids)
    text = (one / "report.md").read_text()
    assert "| model.source.name | lab | big |" in text
    assert "2 runs, which differ in source.name." in text
    assert (
        "- The base models differ, so accuracies start from different places: name lab (one); name big (other)." in text
    )
    assert (
        "other: source.name big against the first: +0.0 points after round 1, paired over 2 contexts, too few for an "
        "interval."
    ) in text


def test_runs_of_the_same_name_are_told_apart_by_their_places(report, fitted, monkeypatch, tmp_path):
    one, two = fitted("a/run"), fitted("b/run")
    fitted("other")
    monkeypatch.chdir(tmp_path)
    assert report(one.relative_to(tmp_path), two.relative_to(tmp_path), "other", "--output", "x.html")[0] == 0
    text = (tmp_path / "x.md").read_text()
    assert [line for line in text.splitlines() if line.startswith("# ")][1:] == ["# a/run", "# b/run", "# other"]
    assert "b/run against the first: +0.0 points" in text
    assert '<a href="#run-2">b/run</a>' in (tmp_path / "x.html").read_text()


def test_a_race_has_two_columns_more(report, fitted, runs, tmp_path):
    tokens = {"trained": 100, "saved": 300}
    train = [runs.scored(1.0, tokens=tokens), runs.dropped(0.0, edit_index=1)]
    folder = runs.write(tmp_path / "raced", {"train-000": [train], "train-001": [[runs.scored(1.0, round=1)]]})
    assert report(folder)[0] == 0
    text, html = (folder / "report.md").read_text(), (folder / "report.html").read_text()
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith(("| round |", "| 1 |", "| 2 |"))]
    assert [row[7:10] for row in rows] == [
        ["rejected", "dropped", "compute"],
        ["0.0\u00a0%", "50.0\u00a0%", "40.0\u00a0%"],  # the dropped one trained 100 tokens, too
        ["0.0\u00a0%", "0.0\u00a0%", "–"],
    ]
    table = next(part for part in text.split("\n\n") if part.startswith("| round |"))
    assert len({line.count("|") for line in table.splitlines()}) == 1
    assert '<th scope="col" class="num">compute</th>' in html and '<td class="num">40.0\u00a0%</td>' in html
    plain = fitted()
    assert report(plain)[0] == 0
    assert "compute |" not in (plain / "report.md").read_text()


def test_a_run_that_has_only_begun(report, runs, tmp_path):
    folder = runs.write(tmp_path / "run", {})
    assert report(folder)[0] == 0
    sentence = "This run has only begun: no unit of work is finished yet."
    assert sentence in (folder / "report.html").read_text() and sentence in (folder / "report.md").read_text()


def test_the_heat_map_of_the_published_matrix(report, shared, tmp_path):
    source = shared / "data" / "seal-published" / "continual_overall_results.json"
    assert report(source, "--output", tmp_path / "m.html")[0] == 0
    html = (tmp_path / "m.html").read_text()
    assert html.count('text-decoration="underline"') == 8  # the greatest accuracy: the second context when just learnt
    assert "| after 8 | 18.9 | 21.9 | 16.4 | 23.7 | 22.1 | 27.5 | 33.5 | 34.0 |" in (tmp_path / "m.md").read_text()


def test_matrices_are_compared(report, tmp_path):
    streams = {"plain": [[0.0, 0.0], [1.0], [0.5, 1.0]], "replay": [[0.0, 0.0], [1.0], [1.0, 1.0]]}
    matrices = [
        average(name, [ContextStream("s", ("a", "b"), tuple(map(tuple, rows)))]) for name, rows in streams.items()
    ]
    write_matrices(tmp_path / "retention.json", matrices)
    assert report(tmp_path)[0] == 0
    assert "| replay | 0.0  | 100.0  | 100.0 | 0.0  | +25.0 (n = 2)           |" in (tmp_path / "report.md").read_text()
    assert (tmp_path / "report.html").read_text().count('class="heat"') == 2


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "RUN is not set: name a run folder"),
        (["{run}/none"], "expected a file, got nothing there"),
        (["{run}", "--output", "{run}/x.pdf"], "expected a name that ends in .html"),
        (["{run}", "--output", "/dev/null/x.html"], "choose a place where you can write"),
        (["{run}", "--colour", "red"], "colour"),
    ],
)
def test_mistakes_are_one_line(report, fitted, args, message):
    folder = fitted()
    code, said = report(*(arg.format(run=folder) for arg in args))
    assert (code, said.count("\n")) == (2, 1) and message in said


def test_a_missing_template_engine_is_named(report, fitted, monkeypatch):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    monkeypatch.delitem(sys.modules, "seal_lightning.report.page")
    code, said = report(fitted())
    assert code == 2 and "pip install 'jinja2>=3.1'" in said and said.count("\n") == 1


def test_no_heavy_library_is_imported():
    code = "import sys, seal_lightning.report.page; print({'torch', 'lightning', 'transformers'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "set()\n"


def test_markdown_stays_a_table_whatever_a_model_writes(report, runs, tmp_path):
    evil = "a | b\n\n# x\n<script>1</script> [x](javascript:1) `c` \\| \u202e ![i](http://x)"
    names = {"context_id": evil, "text": evil, "prompt": evil, "questions": (evil,) * 2, "answers": (evil,) * 2}
    train = [runs.scored(1.0, scores=(1.0, 1.0), **names), runs.scored(0.0, **{**names, "edit_index": 1})]
    folder = runs.write(tmp_path / "run", {"train-000": [train]}, config={"model": {"source": {"name": evil}}})
    assert report(folder)[0] == 0
    text = (folder / "report.md").read_text()
    assert "⟨U+202E⟩" in text and "\u202e" not in text
    tokens = MarkdownIt("commonmark").enable("table").parse(text)
    inner = {child.type for token in tokens for child in token.children or ()}
    assert not {"html_inline", "link_open", "image", "code_inline"} & inner
    assert "html_block" not in {token.type for token in tokens}
    titles = [after.content for token, after in pairwise(tokens) if token.type == "heading_open"]
    assert titles == ["run", "Worth knowing first", "Rewards", "Best and worst edits of round 1", "Cost and time"]
    for table in text.split("\n\n"):
        if table.startswith("|"):
            assert len({line.count("|") for line in table.splitlines()}) == 1


def test_what_a_task_adds_is_shown_as_it_is(report, runs, tmp_path):
    units = {"validation-000": [[runs.scored(0.5)]]}
    tables, notes = [Table("grids", ("a | b", "c"), (("{x}", 1.0), ("|", None)))], ["rank was changed", f"{MISSING} 1"]
    folder = runs.write(tmp_path / "run", units, table=True, tables=tables, notes=notes)
    assert report(folder)[0] == 0
    html = (folder / "report.html").read_text()
    assert "<caption>grids</caption>" in html and '<th scope="col">a | b</th><th scope="col">c</th>' in html
    assert '<th scope="row" class="text">{x}</th><td>1.000</td>' in html
    assert '<th scope="row" class="text">|</th><td></td>' in html
    assert "rank was changed" in html and f"{MISSING} 1" not in html  # which is counted from the journals anyway


def test_the_sentence_on_top(fitted, runs, tmp_path):
    def sentence(folder):
        return sentence_of(measure(read(str(folder)))).replace("\u00a0", " ")

    assert sentence(fitted()) == (
        "On 2 held-out contexts, the model answers 50.0 % of the queries by itself, 25.0 % after adapting to its own "
        "self-edits, and 75.0 % after round 1."
    )
    tested = runs.write(tmp_path / "test", {"test-0123456789ab": [[runs.scored(1.0)]]})
    assert sentence(tested) == (
        "On 1 held-out context, the model answers 50.0 % of the queries by itself and 100.0 % after "
        "adapting to its own self-edits."
    )
    training = runs.write(tmp_path / "train", {"train-000": [[runs.scored(1.0), runs.scored(0.0, edit_index=1)]]})
    assert sentence(training) == (
        "Over 2 self-edits about 1 context, accuracy is 50.0 % before adapting and 50.0 % after; the best edit of each "
        "context reaches 100.0 %."
    )


def test_a_fit_writes_down_what_was_changed(report, tmp_path):
    run = tmp_path / "run"
    options = ["--model.source.seed", "3", "--data.validation", "null", "--trainer.max_epochs", "1"]
    assert main(["fit", "--config", str(CONFIG), "--trainer.default_root_dir", str(run), *options]) == 0
    assert report(run)[0] == 0
    text = (run / "report.md").read_text()
    assert "| model.source.seed | 3 |" in text and "model.tuning.dropout" not in text
    assert "finished: 1 round" in text and "| M-step |" in text
    passages = [json.loads(line) for line in Path("configs/debug/passages.jsonl").read_text().splitlines()]
    first = next(iter(read(str(run)).rounds.values()))[0]
    assert (first.title, first.passage_digest) == (passages[0]["title"], digest_of(passages[0]["passage"]))


def test_kinds_of_edit_and_their_diversity(report, runs, tmp_path):
    """Both edits of a pair are shown with their own request."""
    unit = [
        runs.scored(1.0, edit_kind="facts", prompt="State facts.", text="It burns oil."),
        runs.scored(0.25, edit_kind="self-qa", edit_index=1, prompt="Ask.", text="It burns oil."),
    ]
    folder = runs.write(tmp_path / "run", {"train-000": [unit]})
    code, said = report(folder)
    assert code == 0, said
    page = (folder / "report.html").read_text()
    assert "what the model was asked to write about: facts" in page and "about: self-qa" in page
    row = page.partition("Kinds of self-edit</h")[2]
    (kind,) = [line for line in row.splitlines() if ">self-qa<" in line]
    assert re.findall(r">([^<>]+)</td>", kind)[:2] == ["self-qa", "1"] and ">-0.250<" in kind
    assert "similarity</th></tr>" in page.partition("Diversity</h")[2]
    plain = runs.write(tmp_path / "plain", {"train-000": [[runs.scored(1.0), runs.scored(0.0, edit_index=1)]]})
    assert report(plain)[0] == 0 and "Kinds of self-edit" not in (plain / "report.html").read_text()
