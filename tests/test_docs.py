"""The docs and the README say what is so: every block of code runs or is read by the real command line.

Python blocks run (those of an example module as one module), YAML blocks fit a run, `seal` commands go through their
parsers, and those on a run that the test has really run. Quoted messages, links, the reference and the notebook are
compared with the code. Left out: what needs a network, a GPU or another machine is only parsed.
"""

import ast
import gzip
import inspect
import json
import re
import shlex
import sys
import textwrap
import tomllib
import warnings
from contextlib import suppress
from dataclasses import replace
from itertools import pairwise, takewhile
from pathlib import Path
from shutil import copytree

import nbformat
import pytest
import reference
import torch
import yaml
from lightning.pytorch.loggers import MLFlowLogger, WandbLogger
from peft import PeftModel

from seal_lightning.cli import main
from seal_lightning.commands.names import COMMANDS
from seal_lightning.fit.model_class import chosen_class
from seal_lightning.fit.module import SEALModule
from seal_lightning.models.loading import load_model
from seal_lightning.models.source import ModelSource
from seal_lightning.policy.tuned import PolicyTuning, TunedPolicy
from seal_lightning.results.table import Table
from seal_lightning.tasks.arc.puzzles import Pair, Puzzle, context_of
from seal_lightning.types import Rollout, TrainingSequence

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
}
WRITTEN = {name: text for name, text in PAGES.items() if not name.startswith("docs/reference/")}
MODULES = re.compile(r"# (my_\w+)\.py\n")  # the first line of a block that is part of an example module
SMALL_LAB = (
    "--data.passages 4 --data.held_out 2 --trainer.max_epochs 1 --model.e_step.edits 2 --model.evaluation.edits 1 "
    "--model.m_step.epochs 1 --model.inner_loop.epochs 1 --model.sampler.max_new_tokens 48"
).split()


def blocks(language, text):
    return re.findall(rf"^ *```(?:{language})\n(.*?)```", text, flags=re.S | re.M)


def lines_of(text):
    """The commands of the shell blocks of a page as lists of words; a quoted text may go over several lines."""
    found, begun = [], ""
    for line in "\n".join(blocks("sh|bash", text)).replace("\\\n", " ").splitlines():
        begun += f"{line}\n"
        with suppress(ValueError):  # no closing quotation yet
            found, begun = [*found, shlex.split(begun, comments=True)], ""
    assert begun == ""
    return [words for words in found if words]


def seal_commands(text):
    """The arguments of every `seal`, also behind srun or torchrun."""
    found = []
    for words in lines_of(text):
        words = list(takewhile(lambda word: word not in "<>", words))  # files in place of standard streams
        places = [number for number, word in enumerate(words) if word.rpartition("/")[2] == "seal"]
        found += [words[place + 1 :] for place in places[:1] if words[place + 1 :] != ["--version"]]
    return found


def example_modules():
    """The source of each module that Python blocks make together, by name."""
    sources = {}
    for text in WRITTEN.values():
        for block in blocks("python", text):
            if named := MODULES.match(block):
                sources.setdefault(named[1], []).append(block)
    return {name: "\n\n".join(parts) for name, parts in sources.items()}


@pytest.fixture
def examples(tmp_path, monkeypatch):
    folder = tmp_path / "examples"
    folder.mkdir()
    for name, source in example_modules().items():
        (folder / f"{name}.py").write_text(source, encoding="utf-8")
    monkeypatch.syspath_prepend(str(folder))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty working directory with `configs/`, as in a copy of the repository."""
    place = tmp_path / "copy"
    place.mkdir()
    for name in ("configs", "benchmarks"):
        (place / name).symlink_to(ROOT / name)
    monkeypatch.chdir(place)
    return place


# -- example modules and YAML ------------------------------------------------------------------------------------------


def extensions():
    """The YAML blocks about a class or prompt of one's own, of which each is run."""
    pages = ("extending", "howto/own-task", "howto/own-grader", "howto/reward_term")
    return [block for page in pages for block in blocks("yaml", WRITTEN[f"docs/{page}.md"])]


@pytest.mark.parametrize("block", extensions(), ids=lambda block: re.findall(r"my_seal\.(\w+)|$", block)[0] or "prompt")
def test_each_extension_runs(tmp_path, monkeypatch, examples, capfd, block):
    path = tmp_path / "extension.yaml"
    path.write_text(block, encoding="utf-8")
    monkeypatch.chdir(ROOT)
    options = ["--trainer.default_root_dir", str(tmp_path / "run"), "--trainer.max_epochs", "1"]
    small = ["--trainer.validate_first", "false", "--data.validation", "null"]
    code = main(["fit", "--config", "configs/debug/random.yaml", "--config", str(path), *options, *small])
    output = capfd.readouterr()
    assert code == 0, output.err
    assert "Announce" not in block or "kept 4 of 16 rollouts" in output.out
    wanted = yaml.safe_load(block)
    saved = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    (group,) = wanted
    if class_path := re.search(r"my_seal\.\w+", block):
        assert class_path.group() in yaml.safe_dump(saved[group])


OTHER_YAML = [
    (page, number, block)
    for page, text in WRITTEN.items()
    for number, block in enumerate(blocks("yaml", text))
    if block not in extensions()
]


@pytest.mark.parametrize(("page", "number", "block"), OTHER_YAML, ids=[f"{page}-{n}" for page, n, _ in OTHER_YAML])
def test_each_configuration_fits_a_run(folder, examples, page, number, block):
    (folder / "overlay.yaml").write_text(block, encoding="utf-8")
    base = "configs/arc/llama3.2-1b.yaml" if page == "docs/arc.md" else "configs/knowledge/smollm2.yaml"
    kind, _ = chosen_class([*"--config overlay.yaml".split()], [("overlay.yaml", yaml.safe_load(block))])
    model = [] if kind is SEALModule else ["--model", f"{kind.__module__}.{kind.__qualname__}"]
    parsed = reference.parser_of("fit", *model).parse_args(["--config", base, "--config", "overlay.yaml"])
    for group in yaml.safe_load(block):
        assert group in parsed


def test_the_examples_do_what_they_say(examples):
    import my_seal as examples

    assert examples.StartsRight().grade(question="?", golds=["Ada"], answer="ada Merrow") == 1.0
    france, _peru = examples.Capitals().read()
    assert examples.Headlines().parse(" ", france).reason == "no headline"
    assert examples.Headlines().parse("Paris!", france).status == "ok"
    edit = examples.Readings().parse('{"epochs":3}', france)
    assert (edit.reason, edit.applied.epochs) == ("", 3)
    assert examples.Readings().parse('{"epochs": 12}', france).reason == "no number of readings"
    assert len(examples.Readings().query_prompts(france.queries[0], france)) == 2
    assert examples.Readings().read_answers(["Lima", "Paris", "Paris"], france.queries[0], france) == "Paris"
    rollout = Rollout(0, "France", 0, 0, 0, "", edit.text, "ok", asked=edit.asked)
    (table,) = examples.Readings().tables({0: [], 1: [rollout, replace(rollout, asked={})]})
    assert table == Table("readings", ("epochs", "edits"), ((3, 1),))


def test_the_task_of_ones_own_for_arc(examples):
    from my_arc import Backwards

    turns = tuple(Pair(((left, right),), ((right, left),)) for left, right in ((1, 2), (3, 4)))
    written = blocks("json", WRITTEN["docs/arc.md"])[0]
    edit = Backwards(max_puzzles=2).parse(written, context_of(Puzzle(turns, ()), id="turns"))
    assert edit.reason == ""
    assert edit.training_sequences[2:] == (
        TrainingSequence("12", prompt="Input:\n43\nOutput:\n34\n\nInput:\n21\nOutput:\n"),
        TrainingSequence("34", prompt="Input:\n21\nOutput:\n12\n\nInput:\n43\nOutput:\n"),
    )


# -- commands ----------------------------------------------------------------------------------------------------------

ALL_COMMANDS = {" ".join(command): command for text in WRITTEN.values() for command in seal_commands(text)}


@pytest.mark.parametrize("command", ALL_COMMANDS.values(), ids=list(ALL_COMMANDS))
def test_every_command_parses(folder, examples, command):
    name, *arguments = command
    for option, value in pairwise(arguments):
        if option == "--config" and value.startswith("configs/"):
            assert (ROOT / value).is_file()
        elif option == "--config":  # one of the reader's own
            Path(value).parent.mkdir(parents=True, exist_ok=True)
            Path(value).write_text("{}")
    model = [word for option, value in pairwise(arguments) if option == "--model" for word in (option, value)]
    files = [value for option, value in pairwise(arguments) if option == "--config" and value.startswith("configs/")]
    named = [yaml.safe_load((ROOT / path).read_text()).get("model", {}).get("class_path") for path in files]
    model += [word for kind in named if kind for word in ("--model", kind)]
    parser = reference.parser_of(name, *model)
    _, arguments = chosen_class(arguments, [])
    if name in ("quickstart", "sweep"):
        _, arguments = parser.parse_known_args(arguments)
        parser, arguments = reference.parser_of("fit"), ["--config", "configs/quickstart.yaml", *arguments]
    parser.parse_args(arguments)


def test_a_command_with_an_unknown_option_would_be_noticed(folder):
    with pytest.raises(ValueError, match="inner_lop"):
        reference.parser_of("fit").parse_args(["--model.inner_lop.rank", "8"])


OPTION = re.compile(r"^(?:--|(?=(?:model|trainer|data|filter|checkpoint|table|progress)\.))([a-z_]+(?:\.[a-z_]+)*)")


def test_options_in_the_text_exist():
    """Names in `code`, with or without dashes; what lies below a class is an option of some class of the package."""
    options = {
        row[0].removeprefix("--") for name in COMMANDS for rows in reference.options(name).values() for row in rows
    }
    groups = {option.rpartition(".")[0] for option in options} | options
    kinds = [thing for _, base in reference.KINDS.values() for thing in reference.classes(base).values()]
    things = [*kinds, *reference.settings().values()]
    of_classes = {name for thing in things for name, *_ in reference.parameters(thing)}
    of_classes |= {name for logger in (MLFlowLogger, WandbLogger) for name in inspect.signature(logger).parameters}
    others = {"help", "print_config", "version"}  # of every command
    others |= {"check", "exclude", "requeue", "signal"}  # of docs/reference.py, grading.fit, SLURM
    others |= {"max", "enable", "ntasks", "lora"}  # of vLLM (--max-model-len and the like), SLURM
    unknown = []
    for page, text in WRITTEN.items():
        for quoted in re.findall(r"`([^`\n]+)`", re.sub(r"^ *```.*?^ *```", "", text, flags=re.S | re.M)):
            if found := OPTION.match(quoted.replace("…", "")):
                name = found[1]
                below = any(name.startswith(f"{group}.") for group in groups) and name.rpartition(".")[2] in of_classes
                if not below and name not in groups | others:
                    unknown.append((page, quoted))
    assert unknown == []


def test_scripts_options_extras_and_targets_exist():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), flags=re.M)
    benchmarks = "".join(path.read_text() for path in (ROOT / "benchmarks").glob("*.py"))
    for page, text in WRITTEN.items():
        for names in re.findall(r"seal-lightning\[([\w,]+)\]", text):
            assert set(names.split(",")) <= extras.keys(), page
        for words in lines_of(text):
            if words[0] == "make":
                assert words[1] in targets, page
            if words[:2] == ["python", "-m"]:
                assert (ROOT / f"{words[2].replace('.', '/')}.py").is_file(), page
            elif words[0] == "python":
                assert (ROOT / words[1]).is_file(), page
                for option in words[2:]:
                    assert not option.startswith("--") or f'"{option}"' in benchmarks, (page, option)


# -- the tutorial, and what else works on its run ----------------------------------------------------------------------


def really_run(command):
    """Whether a command works on the tutorial's run, or on files of which there are some."""
    text = " ".join(command)
    needs_more = ("endpoint", "--policy", "judge", "--push_to_hub")
    return ("runs/quickstart" in text or command[0] == "grade") and not any(word in text for word in needs_more)


def test_the_tutorial_and_all_commands_on_its_run(folder, examples, capfd):
    """In the order of the pages, the tutorial first; a smaller lab than a reader's."""
    (folder / "answers.jsonl").write_text('{"question": "Which river?", "gold": "Seine", "answer": "the Seine"}\n')
    judged = [{"question": f"{n}?", "gold": "a", "answer": "ab"[n % 2], "correct": n % 2 == 0} for n in range(4)]
    verdicts = "".join(json.dumps(row) + "\n" for row in judged)
    (folder / "verdicts.jsonl").write_text(verdicts)
    (folder / "verdicts.jsonl.gz").write_bytes(gzip.compress(verdicts.encode()))
    (folder / "my_package.py").write_text("from my_seal import StartsRight as MyGrader\n")
    sys.path.insert(0, str(folder))
    try:
        pages = ["docs/tutorial.md", *(page for page in WRITTEN if page != "docs/tutorial.md")]
        commands = {" ".join(one): one for page in pages for one in seal_commands(WRITTEN[page])}
        wanted = [command for command in commands.values() if really_run(command)]
        assert main(["fit", "--config", "configs/quickstart.yaml", *SMALL_LAB]) == 0, capfd.readouterr().err
        copytree("runs/quickstart", "runs/quickstart-2")  # what another `seal quickstart` makes, and the control
        copytree("runs/quickstart-2", "runs/quickstart/control")
        assert len(wanted) >= 9
        for command in wanted:
            assert main(command) == 0, (command, capfd.readouterr().err)
    finally:
        sys.path.remove(str(folder))
    (program,) = blocks("python", WRITTEN["docs/tutorial.md"])
    capfd.readouterr()
    exec(compile(program, "tutorial.md", "exec"), {})
    assert re.search(r"^edit 1: reward \d\.\d\d, won ", capfd.readouterr().out, flags=re.M)
    assert (folder / "runs/quickstart/report.html").is_file() and (folder / "runs/quickstart/edits.jsonl").is_file()


def other_programs():
    """Python blocks outside modules, beside the tutorial's and those that other tests run.

    They are in tests/fit/test_python.py, and in tests/library/test_elsewhere.py where llama-cpp-python is installed.
    """
    of_the_python_page = blocks("python", WRITTEN["docs/python.md"])
    return [
        pytest.param(block, id=f"{page}-{number}")
        for page, text in WRITTEN.items()
        for number, block in enumerate(blocks("python", text))
        if not MODULES.match(block)
        and page != "docs/tutorial.md"
        and block not in of_the_python_page
        and "llama_cpp" not in block
    ]


@pytest.mark.parametrize("program", other_programs())
def test_each_program_runs(folder, monkeypatch, examples, program):
    """The lab's model stands in for one of the hub, and its adapters for those of other runs."""
    adapters = re.findall(r'PeftModel\.from_pretrained\(base, "(.+)"\)', program)
    if "adapted/adapters/all" in adapters:
        (command,) = (one for one in seal_commands(WRITTEN["docs/adapt.md"]) if "configs/adapt/lab.yaml" in one)
        assert main([*command, "--model.sampler.max_new_tokens", "16", "--model.query_writer.max_tokens", "16"]) == 0
    elif adapters:
        TunedPolicy(*load_model(ModelSource("lab")), PolicyTuning(rank=2), seed=0).export(folder / adapters[0])
    if "from_pretrained" in program:
        base, _, _ = load_model(ModelSource("lab"))
        monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", lambda name, **options: base)
    names = {}
    exec(compile(program, "docs", "exec"), names)
    assert len([value for value in names.values() if isinstance(value, PeftModel)]) == len(adapters)


@pytest.mark.parametrize("page", ["README.md", "docs/explanation.md"])
def test_the_round_that_a_page_shows_is_the_code(page):
    (block,) = blocks("py", WRITTEN[page])
    assert textwrap.indent(block, "    ") in (ROOT / "seal_lightning" / "round.py").read_text(encoding="utf-8")


# -- messages ----------------------------------------------------------------------------------------------------------


def templates():
    """Every text of the package: a pattern with any text in its variable parts, and how much of it is constant."""
    found = {}
    for path in [*(ROOT / "seal_lightning").rglob("*.py"), *(ROOT / "callbacks").glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = [re.escape(one.value) if isinstance(one, ast.Constant) else ".*" for one in node.values]
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                parts = re.split(r"%[.\d]*[sdf]", node.value)  # of log lines
                parts = [".*".join(map(re.escape, parts))]
            else:
                continue
            found["".join(parts)] = len(re.sub(r"\\|\.\*", "", "".join(parts)))
    return {re.compile(pattern): constant for pattern, constant in found.items() if constant >= 16}


def says(patterns, message):
    """Whether a text of the package comes out as `message`, with a quarter of it constant at least."""
    return any(4 * constant >= len(message) and pattern.fullmatch(message) for pattern, constant in patterns.items())


QUOTED = [line for block in blocks("text", WRITTEN["docs/troubleshooting.md"]) for line in block.splitlines()]


@pytest.fixture(scope="module")
def patterns():
    return templates()


@pytest.mark.parametrize("line", QUOTED)
def test_quoted_messages_are_what_the_code_says(patterns, line):
    message = re.sub(r"^(seal: |seal_lightning[\w.]*: WARNING: )", "", line)
    assert says(patterns, message)


def test_a_message_that_nothing_says_would_be_noticed(patterns):
    assert not says(patterns, "the inner loop has no time for one adapter of rank 32")


# -- links -------------------------------------------------------------------------------------------------------------


def anchors(text):
    """As GitHub makes them of headings; where Sphinx would make others, the heading is not to be linked to."""
    without_code = re.sub(r"^ *```.*?^ *```", "", text, flags=re.S | re.M)
    headings = [re.sub(r"[`*]|\[|\]\([^)]*\)", "", line) for line in re.findall(r"^#+ (.*)$", without_code, flags=re.M)]
    github = {re.sub(r"[^\w\- ]", "", line.strip().lower()).replace(" ", "-") for line in headings}
    return {anchor for anchor in github if "--" not in anchor}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    text = re.sub(r"^ *```.*?^ *```", "", PAGES[page], flags=re.S | re.M)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"https?://", target):
            continue
        file, _, anchor = target.partition("#")
        path = ((ROOT / page).parent / file).resolve() if file else ROOT / page
        assert path.exists(), target
        if page.startswith("docs/"):
            assert path.is_relative_to(DOCS), f"{target} is not among the pages of the site"
        assert not anchor or anchor in anchors(path.read_text(encoding="utf-8")), target


# -- reference and notebook --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", reference.MAKERS)
def test_the_reference_is_up_to_date(page):
    assert reference.stale([page]) == [], "run python docs/reference.py"


def test_the_reference_has_every_command_and_is_the_same_everywhere():
    text = PAGES["docs/reference/commands.md"]
    assert re.findall(r"^## seal (\w+)$", text, flags=re.M) == list(COMMANDS)
    assert str(ROOT) not in "".join(PAGES.values())


def test_the_notebook_runs():
    """Its cells in their order, in one namespace: a kernel would cost a process, seconds and seven packages.

    Smaller than a reader's: the cell of parameters is replaced.
    """
    notebook = nbformat.read(DOCS / "tutorial.ipynb", as_version=4)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in cells), "clear the outputs before committing"
    sizes = [cell for cell in cells if "parameters" in cell.metadata.get("tags", [])]
    assert len(sizes) == 1 and "PASSAGES = 12" in sizes[0].source
    threads, names = torch.get_num_threads(), {}
    try:
        with warnings.catch_warnings():
            for cell in cells:
                source = "PASSAGES, EDITS, ROUNDS = 2, 2, 1" if cell in sizes else cell.source
                exec(compile(source, "tutorial.ipynb", "exec"), names)
    finally:
        torch.set_num_threads(threads)
    rows = {row.name: row.accuracy for row in names["table"]}
    assert list(rows) == ["base", "passage", "edits before training", "edits after round 1", "written"]
    assert rows["written"] == 1.0
