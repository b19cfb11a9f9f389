"""Folders of documents: what each kind of file becomes, and that nothing is left out without a word."""

import gzip
import io
import json
import logging
import os
import zipfile

import pypdf
import pytest

from seal_lightning.data import TextFolder, read_contexts
from seal_lightning.data.documents import read_sources
from seal_lightning.data.formats import ending, kind_of
from seal_lightning.errors import DataError


def fill(folder, **files):
    """Files by name, in which __ stands for a dot."""
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        path = folder / name.replace("__", ".")
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def texts(path, **options):
    return {context.title: context.passage for context in TextFolder(str(path), **options).read()}


def pdf(*pages):
    """A PDF with a line a page, in which "" is a page without text."""
    count = len(pages)
    kids = " ".join(f"{3 + page} 0 R" for page in range(count))
    objects = ["<</Type/Catalog/Pages 2 0 R>>", f"<</Type/Pages/Count {count}/Kids[{kids}]>>"]
    font = "<</Font<</F<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>>>>>"
    for page in range(count):
        objects.append(
            f"<</Type/Page/Parent 2 0 R/MediaBox[0 0 600 800]/Resources{font}/Contents {3 + count + page} 0 R>>"
        )
    for text in pages:
        drawn = f"BT /F 12 Tf 50 700 Td ({text}) Tj ET" if text else ""
        objects.append(f"<</Length {len(drawn)}>>\nstream\n{drawn}\nendstream")
    out, places = "%PDF-1.4\n", []
    for number, content in enumerate(objects, start=1):
        places.append(len(out))
        out += f"{number} 0 obj\n{content}\nendobj\n"
    table = "".join(f"{place:010} 00000 n \n" for place in places)
    start, size = len(out), len(objects) + 1
    out += (
        f"xref\n0 {size}\n0000000000 65535 f \n{table}trailer\n<</Size {size}/Root 1 0 R>>\nstartxref\n{start}\n%%EOF\n"
    )
    return out.encode()


def packed(**files):
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for name, content in files.items():
            archive.writestr(name.replace("___", "/").replace("__", "."), content)
    return data.getvalue()


def word(*paragraphs):
    """A Word document of (style, text)."""
    space = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'
    body = "".join(
        f'<w:p><w:pPr><w:pStyle w:val="{style}"/></w:pPr><w:r><w:t>{text}</w:t></w:r></w:p>'
        for style, text in paragraphs
    )
    relations = "http://schemas.openxmlformats.org/officeDocument/2006/relationships/officeDocument"
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        archive.writestr(
            "[Content_Types].xml",
            '<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">'
            '<Default Extension="xml" ContentType="application/xml"/></Types>',
        )
        archive.writestr(
            "_rels/.rels",
            '<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">'
            f'<Relationship Id="a" Type="{relations}" Target="word/document.xml"/></Relationships>',
        )
        archive.writestr("word/document.xml", f"<w:document {space}><w:body>{body}</w:body></w:document>")
    return data.getvalue()


# -- one kind after another --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "title", "passage"),
    [
        ("README", "Eta mill.\n", "README", "Eta mill."),
        ("notes v1.2", "Eta mill.\n", "notes v1.2", "Eta mill."),
        ("a.text", "\n  Zeta.\n\n  More.\n", "a", "  Zeta.\n\n  More."),
        ("run.log", "12:00 start\n", "run", "12:00 start"),
        ("a.MD", "# Alpha\n\nThe mill.", "Alpha", "The mill."),
        ("a.mdx", "# Theta\n\nThe mill.", "Theta", "The mill."),
        ("a.rst", "=====\nGamma\n=====\n\nTower.\n", "Gamma", "=====\nGamma\n=====\n\nTower."),
        ("a.rst", ".. code::\n\n   x = 1\n", "a", ".. code::\n\n   x = 1"),
        ("a.org", "#+TITLE: Epsilon\n* One\nText", "Epsilon", "#+TITLE: Epsilon\n* One\nText"),
        ("a.org", "* Epsilon\n", "Epsilon", "* Epsilon"),
        ("a.adoc", "= Delta\n\nText", "Delta", "= Delta\n\nText"),
        ("f.py", "def f():\n\n    return 1\n", "f.py", "def f():\n\n    return 1"),
        ("f.rs", "fn f() {}\n", "f.rs", "fn f() {}"),
        ("f.yaml", "a: 1\n", "f.yaml", "a: 1"),
        ("Makefile", "all:\n\ttrue\n", "Makefile", "all:\n\ttrue"),
        ("a.csv", "name,year\nDelta,1902\n\nEta,1903\n", "a", "name: Delta; year: 1902\nname: Eta; year: 1903"),
        ("a.csv", 'name;text\nDelta;"a, ""b""\nc"\n', "a", 'name: Delta; text: a, "b" c'),
        ("a.tsv", "name\tyear\nDelta, the\t1902\n", "a", "name: Delta, the; year: 1902"),
        ("a.csv", "a,b\n1,2,3\n", "a", "a,b\n1,2,3"),
        ("a.csv", "sep=;\na;b\n1,5;2\n", "a", "a: 1,5; b: 2"),
        ("a.csv", '"name, first";city;;\nIda;"Dorn; north";;\n;;;\n', "a", "name, first: Ida; city: Dorn; north"),
        ("a.csv", "only a line\n", "a", "only a line"),
        ("a.txt", "\ufeffBOM", "a", "BOM"),
        ("a.md", "\ufeff---\r\ntitle: T\r\n---\r\nOne\r\ntwo\r\n", "T", "One\ntwo"),
        ("a.txt", "Größe".encode("utf-16"), "a", "Größe"),
        ("a.md", "# Größe\n\nText".encode("utf-32"), "Größe", "Text"),
        ("a.md.gz", gzip.compress(b"# Alpha\n\nThe mill.", mtime=0), "Alpha", "The mill."),
        ("f.py.gz", gzip.compress(b"x = 1", mtime=0), "f.py.gz", "x = 1"),
    ],
)
def test_texts(tmp_path, name, content, title, passage):
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    assert texts(tmp_path) == {title: passage}
    assert [document.context.title for document in read_sources([str(tmp_path / name)]).documents] == [title]


def test_html(tmp_path):
    page = """<!doctype html><html><head><title>The  bridge</title><style>p {color: red}</style></head><body>
        <!-- internal --><script>alert(1)</script><h1>Bridge</h1><p>Built in <b>1901</b>, see <a href="#x">below</a> and
        <a href="https://a.b/c">there</a>.</p><pre><code>def f():

    return 1</code></pre><table><tr><th>a</th><th>b</th></tr><tr><td>1</td><td>snake_case</td></tr></table>
        <ul><li>One<li>Two</ul>
        <img src="data:image/png;base64,AAAA" alt="A drawing"></body></html>"""
    (context,) = read_contexts(fill(tmp_path / "d", a__html=page))
    assert context.title == "The bridge"
    assert context.passage == (
        "Built in **1901**, see below and\n[there](https://a.b/c).\n\n```\ndef f():\n\n    return 1\n```\n\n"
        "| a | b |\n| --- | --- |\n| 1 | snake_case |\n\n- One\n- Two\n\nA drawing"
    )
    latin = '<meta charset="iso-8859-1"><p>Größe</p>'.encode("latin-1")
    assert texts(fill(tmp_path / "e", b__htm=latin)) == {"b": "Größe"}


def test_word(tmp_path):
    paragraphs = [("Heading1", "The bridge"), ("Normal", "Built in 1901."), ("Heading2", "Later"), ("Normal", "Lost.")]
    folder = fill(tmp_path / "d", a__docx=word(*paragraphs))
    assert texts(folder) == {"The bridge": "Built in 1901.\n\n## Later\n\nLost."}


def test_pdf(tmp_path, caplog):
    assert texts(fill(tmp_path / "d", a__pdf=pdf("Built in 1901.", "Lost."))) == {"a": "Built in 1901.\n\nLost."}
    assert not caplog.messages
    assert texts(fill(tmp_path / "d", a__pdf=pdf("Built in 1901.", ""))) == {"a": "Built in 1901."}
    assert caplog.messages == [f"{tmp_path}/d/a.pdf: 1 of 2 pages hold no text (pictures of text need OCR)"]
    with pytest.raises(DataError, match=r"a\.pdf: expected a text, got PDF without any: remove it, or run OCR"):
        read_contexts(fill(tmp_path / "d", a__pdf=pdf("", "")) / "a.pdf")
    with pytest.raises(DataError, match=r"a\.pdf: expected a whole PDF document, got: \w+: .*: write it again"):
        read_contexts(fill(tmp_path / "d", a__pdf=b"%PDF-1.4 fake") / "a.pdf")


def test_a_locked_pdf_is_named(tmp_path):
    writer = pypdf.PdfWriter(io.BytesIO(pdf("Secret.")))
    writer.encrypt("password", algorithm="RC4-128")
    writer.write(str(tmp_path / "a.pdf"))
    with pytest.raises(DataError, match=r"a\.pdf: expected a PDF document without a password, got a locked one"):
        read_contexts(tmp_path / "a.pdf")


def test_epub(tmp_path):
    book = packed(
        **{
            "META-INF___container__xml": '<c xmlns="c"><rootfile full-path="o/p.opf"/></c>',
            "o___p__opf": '<p xmlns="o" xmlns:dc="d"><dc:title>The  book</dc:title><item id="b" href="t%20b.xhtml"/>'
            '<item id="a" href="a.xhtml"/><itemref idref="a"/><itemref idref="b"/></p>',
            "o___t b__xhtml": '<?xml version="1.0"?><html><body><h1>Two</h1><p>Last.</p></body></html>',
            "o___a__xhtml": "<html><body><h1>One</h1><p>First.</p></body></html>",
        }
    )
    assert texts(fill(tmp_path / "d", a__epub=book)) == {"The book": "# One\n\nFirst.\n\n# Two\n\nLast."}


def test_notebook(tmp_path):
    cells = [
        {"cell_type": "markdown", "source": ["# Mills\n", "\n", "Two of them."]},
        {"cell_type": "code", "source": "def f():\n    return 1", "outputs": [{"text": "noise"}]},
        {"cell_type": "code", "source": []},
    ]
    folder = fill(tmp_path / "d", a__ipynb=json.dumps({"cells": cells, "metadata": {}}))
    assert texts(folder) == {"Mills": "Two of them.\n\n```python\ndef f():\n    return 1\n```"}


@pytest.mark.parametrize(
    ("name", "kind", "suffix"),
    [
        ("a.MD.gz", "markdown", ".md.gz"),
        ("a.png", None, ".png"),
        ("a.tar.gz", None, ".tar.gz"),
        ("key.pem", None, ".pem"),
        ("LICENSE", "text", ""),
        ("1. Introduction", "text", ""),
        ("2024.05.01", "text", ""),
        ("a.7z", None, ".7z"),
        ("a.tsx", "code", ".tsx"),
        ("a.ndjson", "rows", ".ndjson"),
    ],
)
def test_kinds_go_by_name(name, kind, suffix):
    assert (kind_of(name), ending(name)) == (kind, suffix)


# -- folders -----------------------------------------------------------------------------------------------------------


def test_what_is_no_document_is_counted_and_named(tmp_path, caplog):
    folder = fill(
        tmp_path / "d", a__md="Alpha.", b__png=b"\x89PNG\0", c__PNG=b"\x89PNG\0", d__zip=b"PK\0", tool=b"\x7fELF\0",
        _category__json='{"label": "Guides"}', e__unknown="text",
    )  # fmt: skip
    (folder / "pipe").mkdir()
    os.mkfifo(folder / "pipe" / "p")
    assert texts(folder) == {"a": "Alpha."}
    assert caplog.messages == [
        f"{folder}: read 1 of 8 files; not documents: 2 .png, 1 .json, 1 .zip, 1 .unknown, 1 without an ending "
        "(_category.json, b.png, c.PNG, d.zip, e.unknown, and 1 more); "
        "not files (broken links, pipes, devices): pipe/p"
    ]
    assert texts(folder, strict=True) == {"a": "Alpha."}


def test_valid_json_without_rows_is_no_document(tmp_path, caplog):
    folder = fill(tmp_path / "d", a__md="Alpha.", sidebars__json='["intro"]', version__json="3")
    assert texts(folder, strict=True) == {"a": "Alpha."}
    assert caplog.messages == [f"{folder}: read 1 of 3 files; not documents: 2 .json (sidebars.json, version.json)"]


def test_what_a_program_made_is_not_entered(tmp_path, caplog):
    folder = fill(tmp_path / "d", a__md="Alpha.")
    for name, mark in (("node_modules", "x.js"), ("target", "CACHEDIR.TAG"), ("env", "pyvenv.cfg")):
        (folder / "web" / name / "deep").mkdir(parents=True)
        (folder / "web" / name / mark).write_text("mark")
        (folder / "web" / name / "deep" / "b.md").write_text("Theirs.")
    assert texts(folder) == texts(folder, pattern="*.md") == {"a": "Alpha."}
    names = ", ".join(f"web/{name} (made by a program)" for name in ("env", "node_modules", "target"))
    assert caplog.messages == 2 * [f"{folder}: did not enter {names}"]
    assert "b" in texts(folder / "web" / "target")


def test_the_same_document_twice_counts_once(tmp_path, caplog):
    caplog.set_level("WARNING", "seal_lightning")
    folder = fill(tmp_path / "d", a__md="# Mill\nAlpha.", b__md="# Mill\nAlpha.", c__md="# Mill\nBeta.")
    read = read_sources([str(folder)])
    assert [document.context.passage for document in read.documents] == ["Alpha.", "Beta."]
    assert read.left_out == (f"{folder}: 1 document repeats the title and text of another: counted once",)
    assert caplog.messages == list(read.left_out)


@pytest.mark.parametrize("name", ["p.json", "p.csv", "p.md", "p"])
def test_a_pipe_is_refused_and_not_waited_for(tmp_path, name):
    os.mkfifo(tmp_path / name)
    with pytest.raises(DataError) as caught:
        read_contexts(tmp_path / name)
    assert str(caught.value) == f"{tmp_path}/{name}: expected a file, got a pipe: save it as a file and name that"


def test_an_unknown_file_that_is_no_text_is_to_be_converted(tmp_path):
    fill(tmp_path, letter__doc=b"\xd0\xcf\x11\xe0")
    with pytest.raises(DataError, match=r"got a file that is not text: convert it to one of these$"):
        read_contexts(tmp_path / "letter.doc")


def test_an_empty_module_is_no_fault(tmp_path, caplog):
    folder = fill(tmp_path / "d", a__md="Alpha.", module__py="\n")
    assert texts(folder, strict=True) == {"a": "Alpha."}
    assert caplog.messages == [f"{folder}: read 1 of 2 files; not documents: 1 .py (module.py)"]


BAD = {
    "empty__md": (" \n", "expected data, got an empty file"),
    "todo__md": ("# Ideas\n", "expected a text, got a heading only"),
    "latin__txt": (b"Gr\xf6\xdfe", "expected UTF-8 text, got byte 0xf6 at offset 2"),
    "wide__txt": ("Wide".encode("utf-16-le"), "expected UTF-8 text, got a binary file, or UTF-16 without a mark"),
    "wide__csv": ("a,b\n1,2\n".encode("utf-16-le"), "expected UTF-8 text, got a binary file, or UTF-16 without a mark"),
    "page__html": ("<script>draw()</script>", "expected a text, got HTML without any: remove it"),
    "title__html": ("<title>Mill</title><h1>Mill</h1>", "expected a text, got a title only"),
    "binary__html": (b"\0\0picture", "expected HTML, got a binary file"),
    "old__docx": (b"\xd0\xcf\x11\xe0", "expected a whole DOCX document, got: BadZipFile"),
    "book__ipynb": ("{}", "expected a whole NOTEBOOK document, got: KeyError"),
    "rows__jsonl": ('{"passage": 1}\n', "line 1: field passage must be text"),
    "rows__json": ("{broken", "expected JSON"),
    "rows__jsonl__gz": (b"x", "expected a whole gzip file"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_document_that_cannot_be_used_does_not_stop_the_rest(tmp_path, caplog, name):
    content, reason = BAD[name]
    folder = fill(tmp_path / "d", a__md="Alpha.", **{name: content})
    assert texts(folder) == {"a": "Alpha."}
    counts, named = caplog.messages
    file = folder / name.replace("__", ".")
    assert counts == f"{folder}: read 1 of 2 files; 1 cannot be used"
    assert named.startswith(f"left out {file}") and reason in named
    with pytest.raises(DataError, match=file.name) as caught:
        texts(folder, strict=True)
    assert reason in str(caught.value)
    with pytest.raises(DataError, match=file.name):
        read_contexts(file)


def test_many_faults_fill_no_screen_and_all_are_kept(tmp_path, caplog):
    folder = fill(tmp_path / "d", a__md="Alpha.", **{f"b{n}__md": "" for n in range(20)})
    caplog.set_level(logging.INFO, logger="seal_lightning")
    read = read_sources([str(folder)])
    assert (len(read.documents), read.unread, len(read.left_out)) == (1, 20, 21)
    assert sum(record.levelno == logging.WARNING for record in caplog.records) == 6
    assert sum(record.levelno == logging.INFO for record in caplog.records) == 15


def test_a_folder_without_documents_says_what_it_holds(tmp_path):
    folder = fill(tmp_path / "d", b__png=b"\0", empty__md="")
    with pytest.raises(DataError) as caught:
        read_contexts(folder)
    assert str(caught.value) == (
        f"{folder}: expected documents, got none: {folder}: read 0 of 2 files; not documents: 1 .png (b.png); 1 cannot "
        f"be used; left out {folder}/empty.md: expected data, got an empty file: write it again"
    )


def test_without_the_extra_its_kinds_are_counted_with_what_to_do(tmp_path, caplog, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pypdf", None)
    monkeypatch.setitem(__import__("sys").modules, "bs4", None)
    folder = fill(tmp_path / "d", a__md="Alpha.", b__pdf=pdf("x"), c__html="<p>x")
    install = "pip install 'beautifulsoup4>=4.12' 'lxml>=5' 'mammoth>=1.8' 'markdownify>=1.1' 'pypdf>=5'"
    assert texts(folder) == {"a": "Alpha."}
    assert caplog.messages == [
        f"{folder}: read 1 of 3 files; not read without {install}: 1 .pdf, 1 .html (b.pdf, c.html)"
    ]
    with pytest.raises(DataError) as caught:
        read_contexts(folder / "b.pdf")
    assert str(caught.value) == (f"{folder}/b.pdf: a PDF document needs pypdf, which is not installed: {install}")


def test_rows_of_a_folder_are_read_packed_or_not(tmp_path):
    folder = fill(
        tmp_path / "d", a__md="Alpha.", b__jsonl='{"title": "B", "passage": "Beta."}\n',
        c__jsonl__gz=gzip.compress(b'{"title": "C", "passage": "Gamma."}\n{"title": "D", "passage": "Delta."}\n'),
        package__json='{"name": "x", "version": "1"}',
    )  # fmt: skip
    assert texts(folder) == {"a": "Alpha.", "B": "Beta.", "C": "Gamma.", "D": "Delta."}
    assert [context.title for context in read_contexts(folder / "c.jsonl.gz")] == ["C", "D"]
    assert read_contexts(folder) == [document.context for document in read_sources([str(folder)]).documents]


def test_hidden_files_links_and_odd_names(tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="seal_lightning")
    folder = fill(tmp_path / "d", a__md="Alpha.", __hidden="no")
    fill(folder / ".obsidian", app__json="{}")
    (folder / "loop").symlink_to(folder)
    (folder / "gone.md").symlink_to(folder / "nothing")
    with open(os.fsencode(folder) + b"/caf\xe9.txt", "w") as file:
        file.write("Coffee.")
    assert texts(folder) == {"a": "Alpha.", "caf\ufffd": "Coffee."}
    assert caplog.messages == [
        f"{folder}: skipped 2 hidden files",
        f"{folder}: read 2 of 3 files; not files (broken links, pipes, devices): gone.md",
        f"{folder}: did not enter loop (a link to a folder)",
    ]


def test_the_file_of_queries_is_no_document(tmp_path):
    folder = fill(tmp_path / "d", a__md="The mill is in Dorn.", q__jsonl='{"question": "Where?", "answer": "Dorn"}\n')
    read = read_sources([str(folder)], queries=str(folder / "q.jsonl"))
    assert (len(read.documents), read.left_out) == (1, ())
    assert len(read.documents[0].context.queries) == 1


def test_half_of_a_surrogate_pair_is_named(tmp_path):
    path = tmp_path / "a.ipynb"
    path.write_text(r'{"cells": [{"cell_type": "markdown", "source": "Ida \ud800 built it."}]}')
    with pytest.raises(DataError, match=r"a\.ipynb: expected valid Unicode, got half of a surrogate pair"):
        read_sources([str(path)])
