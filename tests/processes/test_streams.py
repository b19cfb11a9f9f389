"""What a command prints: foreign text acts on no terminal, whatever encoding, and a broken stream loses no work.

The commands run as processes of their own, with real pipes and devices.
"""

import ast
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import pytest
from rich.console import Console

from seal_lightning.cli import main
from seal_lightning.options.parser import save_settings
from seal_lightning.processes.streams import Stream, standard_streams
from seal_lightning.progress.screen import Screen, progress_bars
from seal_lightning.results.table import Table, to_markdown
from seal_lightning.text.escaping import single_line, visible_json

ROOT = Path(__file__).resolve().parents[2]
SEAL = Path(sys.executable).with_name("seal")
EVIL = "\x1b[31mred\x07\x9b1m\u202e\r\x08\u200b"
SHOWN = "⟨U+001B⟩[31mred⟨U+0007⟩⟨U+009B⟩1m⟨U+202E⟩⟨U+000D⟩⟨U+0008⟩⟨U+200B⟩"
ACTS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\u200b\u200e\u200f]")
ROW = {"question": "Who rules?", "gold": "Ada", "answer": "Ada rules"}


def seal(*args, shell="", **environment):
    """Run `seal` as a process: exit code, stdout, stderr; with what a shell appends, such as `2>&-`."""
    command = ["bash", "-c", f'"$0" "$@" {shell}', SEAL, *args]
    variables = {**os.environ, **environment}
    done = subprocess.run(command, capture_output=True, env=variables, cwd=ROOT, timeout=120)
    return done.returncode, done.stdout.decode(), done.stderr.decode()


@pytest.fixture
def answers(tmp_path):
    """A file for `seal grade`."""
    path = tmp_path / "answers.jsonl"
    path.write_text(json.dumps(ROW) + "\n", encoding="utf-8")
    return path


# -- foreign text ------------------------------------------------------------------------------------------------------


def test_one_line_is_one_line():
    assert single_line("not found\nseal_lightning: WARNING: all is well") == (
        "not found⟨U+000A⟩seal_lightning: WARNING: all is well"
    )
    assert single_line(EVIL) == SHOWN


def test_json_keeps_its_meaning():
    text = json.dumps({EVIL: "\ud800 é ⟨"}, ensure_ascii=False)
    assert not ACTS.search(visible_json(text))
    assert json.loads(visible_json(text)) == {EVIL: "\ud800 é ⟨"}


@pytest.mark.parametrize(
    "args",
    [
        [f"gr{EVIL}"],
        ["grade", f"{EVIL}.jsonl"],
        ["grade", "x", f"--{EVIL}", "1"],
        ["grade", "x", "--grader", EVIL],
        ["grade", "x", "--config", EVIL],
        ["report", EVIL],
        ["replay", EVIL],
        ["replay", "x", "--filter", EVIL],
        ["quickstart", "--config", EVIL],
        ["fit", f"--model.{EVIL}", "1"],
        ["fit", "--model.inner_loop.rank", EVIL],
        ["fit", "--config", "configs/debug/random.yaml", "--model.source.name", EVIL],
    ],
)
def test_no_command_line_acts_on_the_terminal(args, capfd):
    assert main(args) in (1, 2)
    out, err = capfd.readouterr()
    assert not ACTS.search(out + err) and err.count("\n") == 1
    assert SHOWN in err or r"\x1b[31mred\x07\x9b1m\u202e\r\x08\u200b" in err or "⟨U+001B⟩[31mred" in err


def test_keys_fields_and_texts_of_files_do_not_act_either(tmp_path, capfd):
    keys, fields, rows = tmp_path / "keys.yaml", tmp_path / "fields.json", tmp_path / "rows.jsonl"
    keys.write_text(r'"\e[31mred\e[0m\u202e": 1', encoding="utf-8")
    fields.write_text(json.dumps([{EVIL: 1}]), encoding="utf-8")
    rows.write_text(json.dumps({name: EVIL + value for name, value in ROW.items()}), encoding="utf-8")
    assert main(["fit", "--config", str(keys)]) == 2
    assert main(["fit", "--config", "configs/debug/random.yaml", "--data.train", str(fields)]) == 2
    out, err = capfd.readouterr()
    assert not ACTS.search(out + err) and err.count("⟨U+001B⟩[31mred") == 2 and err.count("\n") == 2

    assert main(["grade", str(rows)]) == 0
    out, _ = capfd.readouterr()
    assert not ACTS.search(out) and "gold    ⟨U+001B⟩[31mred⟨U+0007⟩⟨U+009B⟩1m⟨U+202E⟩ ⟨U+0008⟩⟨U+200B⟩Ada" in out
    assert main(["grade", str(rows), "--json"]) == 0
    out, _ = capfd.readouterr()
    assert not ACTS.search(out) and json.loads(out)["gold"] == EVIL + "Ada"


def test_nothing_in_a_bar_is_markup_or_acts():
    console = Console(force_terminal=True, width=200, record=True, file=io.StringIO())
    with progress_bars(console) as bars:
        bars.update(bars.add_task(f"[bold]{EVIL}[/bold]", total=2), description=f"[link=x]{EVIL}", completed=1)
        bars.refresh()
        Screen(console=console).line(f"[red]{EVIL}\nsecond :bomb:")
        text = console.export_text()
    assert f"[link=x]{SHOWN}" in text and f"[red]{SHOWN}⟨U+000A⟩second :bomb:" in text


def test_what_is_printed_above_bars_does_not_act(capsys):
    with standard_streams() as out, progress_bars(Console(force_terminal=True, file=cast(Any, out.trusted))) as bars:
        bars.add_task("units", total=2)
        print(f"above {EVIL}")
    shown = capsys.readouterr().out
    assert f"above {SHOWN}" in shown and "\x1b[?25l" in shown and "\x1b[31m" not in shown and "\u202e" not in shown


def test_bars_of_libraries_are_drawn_over_themselves(capsys):
    with standard_streams():
        for text in ("\r 50%|##  ", "\n\x1b[A", f"\r{EVIL}", "\r\n"):
            print(text, end="")
    assert capsys.readouterr().out == f"\r 50%|##  \n\x1b[A\r{SHOWN}\r\n"


def test_secrets_of_the_process_are_not_printed(monkeypatch, capsys):
    monkeypatch.setenv("SOME_API_KEY", "sk-verysecretkey123456")
    assert main(["grade", "sk-verysecretkey123456.jsonl"]) == 2
    assert "sk-verysecret" not in "".join(capsys.readouterr())


def test_all_bars_and_consoles_come_from_one_module():
    """Elsewhere the package prints to sys.stdout and sys.stderr, which `cli.main` has made harmless."""
    drawing = {"Console", "Progress", "Live", "track", "rprint"}
    past = {"__stdout__", "__stderr__"}
    found = []
    for path in [*(ROOT / "seal_lightning").rglob("*.py"), *(ROOT / "callbacks").rglob("*.py")]:
        if path.name in ("screen.py", "streams.py"):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("rich"):
                found += [f"{path}: {alias.name}" for alias in node.names if alias.name in drawing]
            if isinstance(node, ast.Attribute) and node.attr in past:
                found.append(f"{path}:{node.lineno}: {node.attr}")
            if isinstance(node, ast.Attribute) and node.attr == "buffer" and ast.unparse(node.value) == "sys.stdout":
                found.append(f"{path}:{node.lineno}: sys.stdout.buffer")
    assert found == []


def test_every_text_file_is_opened_with_its_encoding():
    found = []
    for path in [*(ROOT / "seal_lightning").rglob("*.py"), *(ROOT / "callbacks").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and _opens_text(node):
                found.append(f"{path.relative_to(ROOT)}:{node.lineno}: {ast.unparse(node)}")
    assert found == []


def _opens_text(call):
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    module = ast.unparse(call.func.value) if isinstance(call.func, ast.Attribute) else ""
    if name not in ("open", "read_text", "write_text", "fdopen") or (module == "os" and name == "open"):
        return False
    if any(word.arg == "encoding" for word in call.keywords):
        return False
    if name == "open" and not isinstance(call.func, ast.Name) and "path" not in module and "Path" not in module:
        return False  # of another kind of thing
    if name == "read_text" and isinstance(call.func, ast.Name):
        return False  # ours (`data.rows`), which knows encodings
    modes = [argument.value for argument in call.args if isinstance(argument, ast.Constant)]
    modes += [word.value.value for word in call.keywords if isinstance(word.value, ast.Constant) and word.arg == "mode"]
    return not any(isinstance(mode, str) and "b" in mode for mode in modes)


# -- encodings ---------------------------------------------------------------------------------------------------------

C_LOCALE = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"LC_ALL": "C"}, "é · ñ"),
        (C_LOCALE, r"\xe9 \xb7 \xf1"),
        ({"PYTHONIOENCODING": "ascii"}, r"\xe9 \xb7 \xf1"),
        ({"PYTHONIOENCODING": "utf-8:strict"}, "é · ñ"),
    ],
)
def test_what_an_encoding_lacks_is_spelled_out(answers, environment, expected):
    row = {**ROW, "gold": "é · ñ"}
    answers.write_text(json.dumps(row, ensure_ascii=False), encoding="utf-8")
    code, out, err = seal("grade", answers, "--output", answers.with_suffix(".out"), **environment)
    assert (code, err) == (0, "") and f"    gold    {expected}\n" in out
    assert json.loads(answers.with_suffix(".out").read_text(encoding="utf-8"))["gold"] == "é · ñ"


def test_a_name_that_is_no_unicode(tmp_path, capsys):
    name = os.fsencode(tmp_path) + b"/caf\xe9.jsonl"
    assert main(["grade", os.fsdecode(name)]) == 2
    assert "caf⟨U+DCE9⟩.jsonl: expected a file, got nothing there" in capsys.readouterr().err
    with open(name, "w", encoding="utf-8") as file:
        file.write(json.dumps(ROW))
    assert main(["grade", os.fsdecode(name), "--output", os.fsdecode(name + b".out")]) == 0


def test_a_run_folder_that_cannot_be_shown_is_refused(capsys):
    name = "runs/caf\udce9\x1b[2J"
    assert main(["fit", "--config", "configs/debug/random.yaml", "--trainer.default_root_dir", name]) == 2
    assert capsys.readouterr().err == (
        "seal: trainer.default_root_dir=runs/caf⟨U+DCE9⟩⟨U+001B⟩[2J: expected a name of visible characters: choose "
        "another\n"
    )


def test_a_settings_file_begins_with_one_line_of_comment(tmp_path):
    save_settings(tmp_path / "config.yaml", "a: 1", header="seal fit --config runs/a\nb: 2\udce9/config.yaml")
    text = (tmp_path / "config.yaml").read_text(encoding="utf-8")
    assert text == "# seal fit --config runs/a⟨U+000A⟩b: 2⟨U+DCE9⟩/config.yaml\na: 1\n"


def test_no_cell_breaks_a_table():
    assert to_markdown(Table("", ("a\nb", "c"), (("\x1b[2J", "d\r\n| e |"),))) == (
        "| a⟨U+000A⟩b  | c              |\n| ----------- | -------------- |\n| ⟨U+001B⟩[2J | d⟨U+000A⟩| e | |"
    )


# -- broken streams ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shell", [">&-", "2>&-", "<&-", ">&- 2>&- <&-", "2>/dev/full", ">/dev/null 2>/dev/full"])
def test_a_closed_or_lost_stream_is_no_error(answers, shell):
    output = answers.with_suffix(".out")
    code, out, err = seal("grade", answers, "--output", output, shell=shell)
    assert (code, err) == (0, "") and bool(out) == (">" not in shell.replace("2>", ""))
    row = json.loads(output.read_text(encoding="utf-8"))  # and nothing else has got into the file
    assert {name: row[name] for name in ROW} == ROW


def test_a_full_disk_below_the_output_is_one_line_and_files_are_kept(answers):
    output = answers.with_suffix(".out")
    code, _, err = seal("grade", answers, "--output", output, shell=">/dev/full")
    assert (code, err) == (
        1,
        "seal: standard output: No space left on device; the output is incomplete, but saved files are whole\n",
    )
    assert json.loads(output.read_text(encoding="utf-8"))["answer"] == "Ada rules"


def test_nobody_reads_on(answers):
    answers.write_text(f"{json.dumps(ROW)}\n" * 5000, encoding="utf-8")
    output = answers.with_suffix(".out")
    code, out, err = seal("grade", answers, "--output", output, shell="| head -1; exit ${PIPESTATUS[0]}")
    assert (code, err) == (1, "") and out.count("\n") == 1
    assert output.read_text(encoding="utf-8").count("\n") == 5000


def test_a_mistake_that_nobody_can_read_keeps_its_exit_code():
    assert seal("grade", "x", shell="2>/dev/full") == (2, "", "")
    assert seal("grade", "x", shell="2>&-") == (2, "", "")


def test_a_broken_stream_is_remembered_and_raises_nothing():
    with open("/dev/full", "w", encoding="utf-8") as full:
        stream = Stream(full)
        stream.write("a\n")
        stream.flush()
        assert stream.failure is not None and stream.failure.strerror == "No space left on device"
        stream.finish()
