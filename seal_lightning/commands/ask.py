"""`seal ask FOLDER [QUESTION]`: a library of `seal adapt` answers, with and without its adapters, side by side.

One question on the command line, a loop of questions in a terminal, or a question on each line of a pipe.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout, suppress
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypedDict

from jsonargparse import Namespace

from seal_lightning.commands.showing import Shown, as_json, document_lines, plain_lines
from seal_lightning.errors import ConfigError, SealError, check_count
from seal_lightning.library.learnt import check_ready, learnt, names_of, unavailable
from seal_lightning.library.manifest import Manifest, read_manifest
from seal_lightning.library.router import ROUTERS, Router, make_router
from seal_lightning.options.parser import Parser
from seal_lightning.text.escaping import single_line

if TYPE_CHECKING:  # torch and transformers take seconds, which a mistake in an option should not
    from seal_lightning.library.asking import Hear, Library, LibraryAnswer, Way, Weighting

TOGETHER = 16  # questions of a pipe that are answered in one batch
HELP = """\
/documents      what can be asked about
/adapter NAME   answer with one document's adapter, with `all`, or with `each`: the one that the question is about
/k N            let the adapters of the N best documents answer together
/help           this text
Ctrl-D          ends"""
DESCRIPTION = """\
Asks a folder of seal adapt. The document that a question is about is found, or none; the model answers with the adapter
of that document, without any adapter, and with the document in its prompt. Without a QUESTION, a loop asks for
questions in a terminal, and standard input has one on each line otherwise; each is answered by a line.
"""


def main(args: Sequence[str]) -> None:
    """Run the command.

    Raises:
        ConfigError: An option has a value that cannot work, or there is nothing to ask about.
        DataError: The library is damaged.
        ModelError: Its model or an adapter cannot be loaded.
        EndpointError: The server does not answer.
    """
    options = _options(args)
    folder = Path(options.folder).expanduser()
    manifest = read_manifest(folder)
    if options.documents:
        print("\n".join(document_lines(manifest, as_rows=options.json)))
        return
    check_ready(folder, manifest)
    _check_named(manifest, options)
    router = make_router(options.router, embedder=options.embedder, least_fit=options.least_fit)
    session = Session(_opened(folder, options, router), options)
    if options.question:
        session.show(" ".join(options.question))
    elif sys.stdin.isatty():
        session.loop()
    else:
        session.answer_lines(sys.stdin)


def _options(args: Sequence[str]) -> Namespace:
    parser = Parser("ask", description=DESCRIPTION, usage="seal ask FOLDER [QUESTION] [--KEY VALUE ...]")
    parser.add_argument("folder", nargs="?", metavar="FOLDER", type=str, help="A folder of seal adapt.")
    parser.add_argument(
        "question", nargs="*", metavar="QUESTION", type=str, help="One question; quotes may be left out."
    )
    parser.add_argument("--k", type=int, default=1, help="Documents whose adapters answer together, the best ones.")
    parser.add_argument(
        "--weighting",
        type=Literal["ranks", "shares"],
        default="ranks",
        help="What k adapters count by: 1, 1/2, 1/3 ... or their shares of the scores, made to add up to 1.",
    )
    parser.add_argument(
        "--document", type=str | None, help="Ask about this document: its id, title, source or adapter."
    )
    parser.add_argument(
        "--adapter",
        type=Literal["each", "all"],
        default="each",
        help="The adapter of the document that the question is about, or that of all documents.",
    )
    parser.add_argument("--router", type=Literal[ROUTERS], default="bm25", help="What finds the document.")
    parser.add_argument(
        "--embedder", type=str | None, help="For the router embeddings: a sentence-transformers folder or hub name."
    )
    parser.add_argument(
        "--least_fit", type=float | None, help="Least fit, 0 to 1, of a document; the router has a default."
    )
    parser.add_argument("--only_adapter", action="store_true", help="Leave out the two answers to compare with.")
    parser.add_argument("--json", action="store_true", help="Print a JSON object for each question, one a line.")
    parser.add_argument("--documents", action="store_true", help="List what can be asked about, and end.")
    parser.add_argument("--max_new_tokens", type=int | None, help="Longest answer; by default that of the training.")
    parser.add_argument("--base", type=str | None, help="The base model, where it is not where the library says.")
    parser.add_argument(
        "--server", type=str | None, help="OpenAI-compatible server, up to /v1, that holds the adapters by name."
    )
    parser.add_argument("--server_model", type=str | None, help="The base model as the server calls it.")
    parser.add_argument("--device", type=Literal["auto", "cpu", "cuda"], default="auto", help="auto takes a GPU.")
    parser.add_argument(
        "--trust_policy",
        action="store_true",
        help="Let the library name classes and remote code of its own; they run here as you.",
    )
    options = parser.read(args)
    _check(options)
    return options


def _check(options: Namespace) -> None:
    if not options.folder:
        raise ConfigError("FOLDER is not set: name a folder of seal adapt (seal ask --help)")
    if options.question and not " ".join(options.question).strip():
        raise ConfigError("QUESTION is empty: expected a question about the documents")
    check_count("k", options.k)
    if options.max_new_tokens is not None:
        check_count("max_new_tokens", options.max_new_tokens)
    if options.server_model and not options.server:
        raise ConfigError("--server_model is of use with --server alone: leave it out, or name a server")
    if options.server and options.k > 1:
        raise ConfigError("--k: a server answers with one adapter at a time: leave it out, or ask without --server")


def _check_named(manifest: Manifest, options: Namespace) -> None:
    """Refuse a document that cannot be asked about before a model is loaded."""
    named = options.document
    if named is not None and not any(named in names_of(entry) for entry in learnt(manifest)):
        raise unavailable(manifest, named)


def _opened(folder: Path, options: Namespace, router: Router) -> Library:
    with redirect_stdout(sys.stderr):  # libraries print while they are imported
        from transformers.utils.logging import disable_progress_bar

        from seal_lightning.library.asking import Library

        disable_progress_bar()  # of weights that are read within a second
        library = Library.open(
            folder,
            device=options.device,
            router=router,
            base=options.base,
            server=options.server,
            server_model=options.server_model,
            trusted=options.trust_policy,
        )
    if options.max_new_tokens is not None:
        library.max_answer_tokens = options.max_new_tokens
    return library


class How(TypedDict):
    """How every question of a session is asked, as `Library.ask` has it."""

    k: int
    documents: list[str] | None
    together: bool
    weighting: Weighting


class Session:
    """Questions to one library, one after another.

    Args:
        library: The library.
        options: How the first of them is asked.
    """

    def __init__(self, library: Library, options: Namespace) -> None:
        self.library = library
        self.k: int = options.k
        self.named: str | None = options.document
        self.together: bool = options.adapter == "all"
        self._options = options

    @property
    def ways(self) -> tuple[Way, ...]:
        """What is answered."""
        return ("with_adapter",) if self._options.only_adapter else ("without_adapter", "with_adapter", "open_book")

    def show(self, question: str) -> None:
        """Answer a question for a reader, or as JSON."""
        if self._options.json or not sys.stdout.isatty():
            answer = self._ask(question)
            print(as_json(answer) if self._options.json else "\n".join(plain_lines(answer, self.ways)))
            return
        with Shown(self.ways) as shown:
            shown.finish(self._ask(question, shown.hear))

    def _ask(self, question: str, hear: Hear | None = None) -> LibraryAnswer:
        return self.library.ask(question, **self._how(), ways=self._due(question), hear=hear)

    def _how(self) -> How:
        documents = None if self.named is None else [self.named]
        return {"k": self.k, "documents": documents, "together": self.together, "weighting": self._options.weighting}

    def _due(self, question: str) -> tuple[Way, ...]:
        """The ways, and the model alone where no adapter would answer."""
        if self.named is None and not self.together and not self.library.route(question).fits:
            return tuple(dict.fromkeys(("without_adapter", *self.ways)))
        return self.ways

    def answer_lines(self, lines: Iterator[str]) -> None:
        """Answer the questions of a pipe, each with one line."""
        questions = (line.strip() for line in lines)
        asked = (question for question in questions if question)
        while some := list(islice(asked, TOGETHER)):
            ways = self.ways if self._options.json else tuple(dict.fromkeys(("without_adapter", "with_adapter")))
            for answer in self.library.ask_all(some, **self._how(), ways=ways):
                text = answer.without_adapter if answer.with_adapter is None else answer.with_adapter
                print(as_json(answer) if self._options.json else single_line(text or ""), flush=True)

    # -- the loop --------------------------------------------------------------------------------------------------

    def loop(self) -> None:
        """Ask for questions until Ctrl-D; the arrow keys find those of this session."""
        with suppress(ImportError):
            import readline  # noqa: F401 - input() then has a history, which is written nowhere
        print(f"{len(self.library.documents)} documents; a question, /help, or Ctrl-D to end")
        while True:
            try:
                line = input("? ").strip()
            except EOFError:
                print()
                return
            try:
                if line.startswith("/"):
                    print(self._obey(line))
                elif line:
                    self.show(line)
            except SealError as error:
                print(single_line(f"seal: {error}"), file=sys.stderr)

    def _obey(self, line: str) -> str:
        """Do what a line with a slash says; returns what to print."""
        word, _, value = line.partition(" ")
        value = value.strip()
        if word == "/documents":
            return "\n".join(document_lines(self.library.manifest, as_rows=False))
        if word == "/adapter" and value:
            return self._take(value)
        if word == "/k" and value.isdecimal() and int(value):
            self.k = int(value)
            return f"k = {self.k}"
        return HELP

    def _take(self, value: str) -> str:
        self.named = None if value in ("each", "all") else self.library.document(value).id
        self.together = value == "all"
        return f"adapter: {value}"
