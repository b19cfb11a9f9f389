"""Documents that are not plain text: HTML, PDF, Word, EPUB, notebooks and tables, as Markdown or text.

HTML, Word and EPUB become Markdown, a PDF the text of its pages. Pictures (but not their descriptions), scripts,
styles, comments and the output of notebooks are left out. The libraries come with the extra `documents`; notebooks and
tables need none.
"""

from __future__ import annotations

import codecs
import importlib
import io
import logging
import posixpath
import re
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote
from xml.etree import ElementTree

from seal_lightning.data.markdown import read_markdown
from seal_lightning.data.separated import named, table_lines, within
from seal_lightning.errors import DataError
from seal_lightning.files.bounded import check_archive, parse_json, read_bytes
from seal_lightning.files.extras import install
from seal_lightning.files.rows import BEGINNING, read_text

if TYPE_CHECKING:
    from bs4 import BeautifulSoup

log = logging.getLogger(__name__)

UNSEEN = ("script", "style", "template", "noscript", "svg", "iframe", "head", "video", "audio")
BLANKS = re.compile(r"[\t \r\n]{2,}")
WORD_STYLES = """\
p[style-name='Title'] => h1:fresh
p[style-name='Source Code'] => pre:separator('\\n')
p[style-name='HTML Preformatted'] => pre:separator('\\n')
"""


class MissingExtra(DataError):
    """A kind of document that needs a library which is not installed."""


def convert(file: Path, kind: str) -> tuple[str, str]:
    """Title ("" if the document has none) and text of a file of this kind.

    Raises:
        MissingExtra: The library that reads it is missing.
        DataError: The file is broken, locked, or holds no text.
    """
    if kind == "table":
        return "", _table(read_text(file), file)
    try:
        title, text = CONVERTERS[kind](read_bytes(file), file)
    except DataError:
        raise
    except ImportError as error:
        raise MissingExtra(
            f"{file}: a {kind.upper()} document needs {error.name}, which is not installed: {install('documents')}"
        ) from None
    except RecursionError:
        raise DataError(
            f"{file}: expected a {kind.upper()} document, got parts nested too deeply: flatten it"
        ) from None
    except Exception as error:  # a parser of other people's files fails in as many ways as there are broken files
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise DataError(f"{file}: expected a whole {kind.upper()} document, got: {reason}: write it again") from error
    if not text.strip():
        if title:
            raise DataError(f"{file}: expected a text, got a title only: write the text or remove the file")
        advice = "remove it, or run OCR on its pictures" if kind in ("pdf", "docx", "epub") else "remove it"
        raise DataError(f"{file}: expected a text, got {kind.upper()} without any: {advice}")
    return title, text


def _html(data: bytes, file: Path) -> tuple[str, str]:
    if b"\0" in data[:BEGINNING] and not data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise DataError(f"{file}: expected HTML, got a binary file, or UTF-16 without a mark: save it as UTF-8")
    soup = _soup(data)
    title = " ".join(soup.title.get_text().split()) if soup.title else ""
    heading, text = read_markdown(_markdown(soup))
    return title or heading, text


def _soup(html: bytes | str) -> BeautifulSoup:
    bs4, _ = importlib.import_module("bs4"), importlib.import_module("lxml")
    with warnings.catch_warnings():  # about XHTML, and about pages so short that they could be the name of a file
        warnings.simplefilter("ignore", bs4.XMLParsedAsHTMLWarning)
        warnings.simplefilter("ignore", bs4.MarkupResemblesLocatorWarning)
        return bs4.BeautifulSoup(html, "lxml")


def _markdown(soup: BeautifulSoup) -> str:
    markdownify, bs4 = importlib.import_module("markdownify"), importlib.import_module("bs4")
    for declaration in soup(string=lambda text: isinstance(text, bs4.element.PreformattedString)):
        declaration.extract()  # <?xml ...?>, <!doctype ...> and comments
    for tag in soup(UNSEEN):
        tag.decompose()
    for text in soup(string=BLANKS):  # markdownify joins them, in time with the square of their number
        if text.find_parent("pre") is None:
            text.replace_with(BLANKS.sub(lambda run: "\n" if {*run[0]} & {"\n", "\r"} else " ", text))
    for picture in soup("img"):
        picture.replace_with(str(picture.get("alt", "")))
    for link in soup("a"):  # links within the page or the site lead nowhere from here
        if not str(link.get("href", "")).startswith(("http://", "https://")):
            link.unwrap()
    plain = {"escape_asterisks": False, "escape_underscores": False, "escape_misc": False}

    class Converter(markdownify.MarkdownConverter):
        def convert_pre(self, el: object, text: str, parent_tags: object) -> str:
            """Leaves out the blank lines around code, which markdownify would search for from every blank in it."""
            begins = len(text) - len(text.lstrip(" \n"))
            text = text[text.rfind("\n", 0, begins) + 1 :].rstrip(" \n")
            return super().convert_pre(el, text, parent_tags)

    options = {"heading_style": "atx", "bullets": "-", "table_infer_header": True, "strip_pre": None, **plain}
    return Converter(**options).convert_soup(soup)


def _word(data: bytes, file: Path) -> tuple[str, str]:
    check_archive(data, file)
    mammoth = importlib.import_module("mammoth")
    no_pictures = mammoth.images.img_element(lambda image: {"src": ""})
    result = mammoth.convert_to_html(io.BytesIO(data), convert_image=no_pictures, style_map=WORD_STYLES)
    for message in {message.message for message in result.messages}:
        log.debug("%s: %s", file, message)
    return read_markdown(_markdown(_soup(result.value)))


def _pdf(data: bytes, file: Path) -> tuple[str, str]:
    pypdf = importlib.import_module("pypdf")
    reader = pypdf.PdfReader(io.BytesIO(data))
    if reader.is_encrypted and not reader.decrypt(""):
        raise DataError(f"{file}: expected a PDF document without a password, got a locked one: unlock it")
    pages = [page.extract_text().strip() for page in reader.pages]
    if (empty := sum(not page for page in pages)) and empty < len(pages):
        log.warning("%s: %d of %d pages hold no text (pictures of text need OCR)", file, empty, len(pages))
    return "", "\n\n".join(filter(None, pages))


def _epub(data: bytes, file: Path) -> tuple[str, str]:
    """The chapters in the order in which they are read."""
    check_archive(data, file)
    with zipfile.ZipFile(io.BytesIO(data)) as book:
        container = ElementTree.fromstring(book.read("META-INF/container.xml"))
        package = next(e.attrib["full-path"] for e in container.iter() if e.tag.endswith("}rootfile"))
        contents = ElementTree.fromstring(book.read(package))
        paths = {e.attrib["id"]: e.attrib["href"] for e in contents.iter() if e.tag.endswith("}item")}
        chapters = [paths[e.attrib["idref"]] for e in contents.iter() if e.tag.endswith("}itemref")]
        folder = posixpath.dirname(package)
        pages = [book.read(posixpath.normpath(posixpath.join(folder, unquote(path)))) for path in chapters]
    titles = [e.text or "" for e in contents.iter() if e.tag.endswith("}title")]
    text = "\n\n".join(filter(None, (_markdown(_soup(page)).strip() for page in pages)))
    return " ".join(titles[0].split()) if titles else "", text


def _notebook(data: bytes, file: Path) -> tuple[str, str]:
    """Markdown cells as they are, code cells fenced."""
    notebook = parse_json(data)
    language = notebook.get("metadata", {}).get("kernelspec", {}).get("language", "python")
    cells = [_cell(cell, language) for cell in notebook["cells"]]
    return read_markdown("\n\n".join(filter(None, cells)))


def _cell(cell: Mapping[str, str | list[str]], language: str) -> str:
    source = cell["source"]
    text = (source if isinstance(source, str) else "".join(source)).strip("\n")
    if cell["cell_type"] != "code" or not text:
        return text
    fence = "````" if "```" in text else "```"
    return f"{fence}{language}\n{text}\n{fence}"


def _table(text: str, file: Path) -> str:
    """One row per line, each value after its column's name, so that a row is complete wherever a passage begins.

    A text that is not a table (no names, or rows with more or fewer values than names) stays as it is.
    """
    try:
        first, *lines = [line.cells for line in table_lines(text, file.name) if any(map(str.strip, line.cells))]
    except ValueError:
        return text
    names = named(first)
    rows = [within(cells, len(names)) for cells in lines]
    if not rows or not all(names) or any(len(row) != len(names) for row in rows):
        return text
    return "\n".join(
        "; ".join(f"{name}: {' '.join(value.split())}" for name, value in zip(names, row, strict=True)) for row in rows
    )


CONVERTERS: dict[str, Callable[[bytes, Path], tuple[str, str]]] = {
    "html": _html, "docx": _word, "pdf": _pdf, "epub": _epub, "notebook": _notebook,
}  # fmt: skip
