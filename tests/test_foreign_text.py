"""Texts that are made to be slow are read in time proportional to their length, by every function that sees such texts.

The lengths are such that time with the square of the length would be minutes; a hang is ended after `LIMIT` seconds of
processor time, which linear functions stay below by two orders of magnitude.
"""

import re
import signal
from pathlib import Path

import pytest
from foreign_text import READERS, TEXTS, reading, text_of

PACKAGE = Path(__file__).resolve().parent.parent / "seal_lightning"
LENGTH = 60_000
LIMIT = 60
# Readers whose linear time is long read half of the length, in a quarter of the limit: time with the square of the
# length is ended just as early.
HALVED = {
    "data.conversion, HTML", "data.conversion, notebook", "data.documents, stdin", "data.documents, table",
    "data.documents, text", "data.splitting", "grading.Calibrated, gold", "tasks.rule_based",
}  # fmt: skip

# Where patterns and parsers of foreign text stand, and which readers of the table go through them. A module with a
# pattern is in one of the two lists: a new one gets a row in benchmarks/foreign_text.py first.
COVERED = """
options/mistakes data/base data/dataset_sources data/documents data/formats data/json_files data/markdown
data/separated data/splitting data/text_folder data/conversion text/escaping
grading/calibrated/expectation grading/calibrated/reading grading/scripts grading/stems grading/words
e_step/own_queries results/diversity tasks/arc/edit tasks/directives tasks/layer_choice tasks/edit_kinds text/thoughts
tasks/rule_based/facts tasks/rule_based/questions tasks/rule_based/writer
""".split()
# Patterns that see no text of a model, server or document, or such a text cut to a length before.
ELSEWHERE = {
    "models/lora_files": "expressions of an adapter, of at most 300 characters and of a plain form",
    "commands/adapt/jobs": "names of adapters on the command line, documents' titles",
    "models/chat": "the source of a chat template",
    "models/checkpoints": "messages of libraries",
    "commands/continual/countermeasure": "labels from the configuration",
    "models/encoding": "built from the control tokens of a tokenizer, each of a known length",
    "endpoints/batch": "ids of a server, of at most 200 characters",
    "endpoints/failures": "replies with an error, cut before",
    "endpoints/options": "keys and addresses from the configuration",
    "generator/objectives": "three fixed names in a prompt of the configuration",
    "grading/terms": "import paths of reward terms",
    "inner_loop/isolation/probing": "names in a model's configuration",
    "report/gpu_prices": "names of GPUs, by their drivers and in the price table",
    "lab/lines": "lines of the lab's own world",
    "lab/tokenizer": "lines of the lab's own world",
    "models/memory": "messages of libraries",
    "models/precision": "names of a model's parameters",
    "records/continued": "the name of a file",
    "records/entries": "names of files",
    "text/redaction": "tested with the redaction",
    "report/writing": "the last line of a report's file",
    "report/settings": "names of classes",
    "report/read": "names of journals",
    "sharing/hub": "the name of the output folder, one character class",
    "sampling/server": "refusals of our own messages",
    "commands/run_folders": "names of folders, and the number behind one",
    "files/bounded": "JSON of any length, one character class after another",
    "files/saving": "messages of libraries, names of folders",
    "commands/standalone": "names of options, in messages of the parser",
    "processes/streams": "the whole of what tqdm prints between two bars, one character class after another",
    "commands/sweep/grid": "what the command line sweeps, and the names of runs",
    "models/template_limits": "templates of at most 200,000 characters, one class of at most 20 characters",
    "options/trust": "values of a run's configuration, one character class",
    "trackers/mlflow_tracker": "names of options",
    "trackers/wandb_tracker": "names of ours",
    "fit/model_class": "the name of a class in the user's own configuration, of a bounded form",
    "options/config_files": "one line of the user's own config file, one character class",
    "options/parser": "names of classes in the user's own configuration, of a bounded form",
}


class Hang(BaseException):
    """A function still reads."""


@pytest.fixture
def alarm():
    """Ends a function that hangs, where Python code or a pattern of `re` runs."""

    def late(number, frame):
        raise Hang

    before = signal.signal(signal.SIGVTALRM, late)
    yield lambda seconds=LIMIT: signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    signal.signal(signal.SIGVTALRM, before)


def test_the_halved_readers_are_in_the_table():
    assert READERS.keys() >= HALVED


@pytest.mark.slow
@pytest.mark.parametrize("reader", READERS)
def test_every_text_is_read_or_refused(reader, alarm):
    share = 2 if reader in HALVED else 1
    for name in TEXTS:
        for length in (1500, LENGTH // share):
            alarm(LIMIT / share**2)
            assert reading(reader, text_of(name, length)) == "", name


@pytest.mark.parametrize(
    ("reader", "text"),
    [
        ("tasks.edit_kinds.questions", "question and blanks"),  # time with the cube of the blanks
        ("tasks.edit_kinds.without_answer_label", "tabs"),
        ("questions", "questions and answers"),
        ("data.markdown", "heading and blanks"),
        ("data.markdown", "open headings"),
        ("data.markdown", "front matter, one key"),
        ("data.splitting", "blank lines"),
        ("data.splitting", "carriage returns"),  # an IndexError
        ("data.conversion, HTML", "tabs"),
        ("data.conversion, HTML", "code in HTML"),
        ("data.documents, table", "semicolons"),
        ("grading.scripts.asks", "closers"),
        ("grading.stems.stem_of", "Hebrew prefixes"),
        ("grading.stems.stem_of", "Korean particles"),
        ("grading.words.latin_words", "marks of two classes"),
        ("grading.Calibrated, gold", "parentheses"),
        ("grading.Calibrated, answer", "one letter"),
    ],
)
def test_what_was_slow_is_read_at_once(reader, text, alarm):
    alarm()
    assert reading(reader, text_of(text, 300_000)) == ""


def test_every_module_with_a_pattern_is_known():
    """A new pattern gets a row in the table, or a reason why it needs none."""
    with_patterns = set()
    for path in PACKAGE.rglob("*.py"):
        if re.search(r"\b(?:re|regex)\.(?!Pattern|Match|escape|[A-Z]\b)\w+\(", path.read_text(encoding="utf-8")):
            name = path.relative_to(PACKAGE).with_suffix("").as_posix().removesuffix("/__init__")
            with_patterns.add(name)
    assert sorted(with_patterns - {*COVERED, *ELSEWHERE}) == []
    assert sorted({*COVERED} - with_patterns) == []


def test_the_table_reads_with_the_functions_that_it_names():
    assert reading("tasks.edit_kinds.questions", "Question: Who?\nAnswer: Ida.") == ""
    assert len(text_of("blanks", 1000)) == 1000
    assert text_of("question and blanks", 12) == "Question   x"
