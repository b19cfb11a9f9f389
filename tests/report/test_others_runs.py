"""A report about somebody else's run reads that run and nothing else, and shows what it says as text."""

import os
from html.parser import HTMLParser

import pytest
from markdown_it import MarkdownIt

from seal_lightning.cli import main
from seal_lightning.errors import DataError
from seal_lightning.report.read import read

EVIL = "<script>alert(1)</script><img src=http://127.0.0.1:9/x.png> [x](javascript:1) | `c` =cmd|'/c calc'!A1"
LINKED = ["config.yaml", "settings.yaml", "fit.json", "fit.md", "policy/selection.json", "selection.json",
          "csv/version_0/metrics.csv",
          "adapters/a/adaptation.json", "retention.json", "journal/train-000.rank-0.jsonl"]  # fmt: skip


class Elements(HTMLParser):
    """Every element's attributes: (element, attribute, value)."""

    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found += [(tag, name, value or "") for name, value in [("", ""), *attrs]]


@pytest.mark.parametrize("name", LINKED)
def test_a_link_in_a_run_is_not_followed(fitted, tmp_path, name):
    folder = fitted()
    secret = tmp_path / "secret"
    secret.write_text("password: sk-4711\n")
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.symlink_to(secret)
    with pytest.raises(DataError, match="expected a file of that folder, got a link or a name that leads to") as caught:
        read(str(folder))
    assert "4711" not in str(caught.value)


@pytest.mark.parametrize("name", LINKED[:-1])
def test_a_pipe_in_a_run_is_not_waited_for(fitted, name):
    folder = fitted()
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    with pytest.raises(DataError, match="expected a file, got a pipe"):
        read(str(folder))


@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_the_state_of_a_sweep_is_no_way_out_either(fitted, capsys, kind):
    folder = fitted()
    if kind == "link":
        (folder / "sweep.json").symlink_to("/dev/zero")
    else:
        os.mkfifo(folder / "sweep.json")
    assert main(["report", str(folder)]) == 2
    assert "sweep.json: expected a file" in capsys.readouterr().err


def test_a_report_is_not_written_where_a_link_leads(fitted, tmp_path, capsys):
    folder = fitted()
    (folder / "report.html").symlink_to(tmp_path / "autostart")
    assert main(["report", str(folder)]) == 2
    assert "report.html: expected a new file or an earlier report, got a link: choose" in capsys.readouterr().err
    assert not (tmp_path / "autostart").exists()


def test_names_of_a_run_are_shown_as_text(fitted, runs, tmp_path, capsys):
    """Names of settings, files, contexts, graders and the folder itself."""
    config = {"model": {"source": {"name": EVIL}, EVIL: {EVIL: EVIL}, "grader": {"class_path": EVIL}}, EVIL: [EVIL]}
    journals = {"train-000": [[runs.scored(1.0, context_id=EVIL), runs.scored(0.0, context_id="../../etc/passwd")]]}
    folder = runs.write(tmp_path / "<img src=x onerror=1>", journals, config=config)
    (folder / "settings.yaml").write_text((folder / "config.yaml").read_text())
    assert main(["report", str(folder)]) == 0
    html, markdown = ((folder / f"report.{kind}").read_text() for kind in ("html", "md"))
    page = Elements(html)
    assert not {"script", "img", "iframe", "link", "object", "base", "form"} & {tag for tag, _, _ in page.found}
    assert {value[:1] for _, name, value in page.found if name in ("href", "src", "action")} <= {"#"}
    assert not [name for _, name, _ in page.found if name.startswith("on")]
    tokens = MarkdownIt("commonmark").enable("table").parse(markdown)
    kinds = {token.type for token in tokens} | {child.type for token in tokens for child in token.children or ()}
    assert not {"html_inline", "html_block", "link_open", "image", "code_inline"} & kinds
    assert sorted(path.name for path in folder.iterdir()) == ["config.yaml", "journal", "report.html", "report.md",
                                                              "settings.yaml"]  # fmt: skip


def test_a_class_that_a_run_names_is_not_imported(fitted, tmp_path, monkeypatch, capsys):
    marker = tmp_path / "MARKER"
    (tmp_path / "code_of_a_reported_run.py").write_text(f"open({str(marker)!r}, 'w').write('ran')")
    monkeypatch.syspath_prepend(str(tmp_path))
    named = {"class_path": "code_of_a_reported_run.Mine", "init_args": {}}
    folder = fitted(config={"model": {"grader": named, "task": named}, "filter": named, "data": named})
    for command in (["report", str(folder)], ["replay", str(folder)], ["replay", str(folder), "--sft", "kept.jsonl"]):
        monkeypatch.chdir(tmp_path)
        assert main(command) == 0
    assert not marker.exists()
