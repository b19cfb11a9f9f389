"""JSON, YAML, packed files and archives: what breaks a bound is one line at once, and honest files are read."""

import gzip
import io
import json
import os
import zipfile
import zlib
from pathlib import Path

import pytest
import yaml

from seal_lightning.data.documents import read_sources
from seal_lightning.errors import ConfigError, DataError
from seal_lightning.files.bounded import (
    PackedTooWell,
    check_archive,
    depth_exceeds,
    parse_json,
    read_bytes,
    read_json,
    unpack,
)
from seal_lightning.files.bounded_yaml import BeyondBounds, load_yaml, survey
from seal_lightning.files.rows import read_rows

BOMB = "".join(f"a{n}: &a{n} [{','.join([f'*a{n - 1}' if n else 'x'] * 9)}]\n" for n in range(10))


# -- JSON --------------------------------------------------------------------------------------------------------------


def test_honest_json_is_read():
    assert parse_json('{"a": [1, 2.5, null, "\\u00e9"]}') == {"a": [1, 2.5, None, "é"]}
    assert parse_json(b'\xef\xbb\xbf["a"]') == ["a"]
    assert parse_json("[" * 100 + "]" * 100)
    assert parse_json("9" * 300) == 10**300 - 1
    assert len(parse_json(json.dumps([[number] for number in range(1000)]))) == 1000


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 101 + "]" * 101, "lists and objects nested more than 100 deep: line 1 column 101 (char 100)"),
        ("[" * 100_000, "lists and objects nested more than 100 deep: line 1 column 101 (char 100)"),
        ('["[[{\\"",\n' + '{"a":' * 100 + "1" + "}" * 100 + "]", "more than 100 deep: line 2 column 496 (char 505)"),
        ('{"a": ' + "9" * 301 + "}", "a number of more than 300 digits: line 1 column 7 (char 6)"),
        ("9" * 1_000_000, "a number of more than 300 digits: line 1 column 1 (char 0)"),
        (b'["\xff"]', "byte 0xff at offset 2 is not text: line 1 column 1 (char 0)"),
        ("[1", "Expecting ',' delimiter: line 1 column 3 (char 2)"),
    ],
)
def test_json_beyond_a_bound_is_an_error_of_json(text, message):
    with pytest.raises(json.JSONDecodeError) as caught:
        parse_json(text)
    assert str(caught.value).endswith(message)


def test_depth_is_counted_without_recursion():
    deep = []
    for _ in range(10_000):
        deep = [deep]
    assert depth_exceeds(deep, 10_000) and not depth_exceeds(deep, 10_001)
    assert not depth_exceeds("text", 0)


def test_a_file_of_json_says_where_it_breaks(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('{\n"a": ]}')
    with pytest.raises(ConfigError, match=r"a\.json, line 2: expected JSON, got: Expecting value \(column 6\): repair"):
        read_json(path, error=ConfigError)
    path.write_text("[" * 3000)
    with pytest.raises(DataError, match=r"a\.json, line 1: expected JSON, got: lists and objects nested more than 100"):
        read_rows(path)
    path.write_text("{}\n")
    assert read_json(path) == {}


# -- files -------------------------------------------------------------------------------------------------------------


def test_a_file_that_packs_too_well_is_refused(tmp_path):
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    data = b"".join([packer.compress(b"[" + b" " * 10_000_000) for _ in range(10)]) + packer.flush()
    path = tmp_path / "bomb.json.gz"
    path.write_bytes(data)
    with pytest.raises(DataError) as caught:
        read_rows(path)
    assert str(caught.value) == (
        f"{path}: expected at most 200 bytes for each packed one, got 928: unpack it with gunzip if you trust it"
    )
    with pytest.raises(PackedTooWell):
        unpack(io.BytesIO(data))


def test_honest_packed_files_are_read(tmp_path):
    path = tmp_path / "a.jsonl.gz"
    rows = b'{"passage": "Ida built the mill."}\n' * 100
    path.write_bytes(gzip.compress(rows) + gzip.compress(rows))  # two members
    assert len(read_rows(path)) == 200
    assert read_bytes(path) == rows * 2
    assert len(unpack(io.BytesIO(gzip.compress(b" " * (60 << 20))))) == 60 << 20  # little enough, whatever the ratio


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (gzip.compress(b"text" * 1000, mtime=0)[:-20], "expected a whole gzip file, got: Compressed file ended"),
        (gzip.compress(b"text", mtime=0) + b"more", "expected a whole gzip file, got: Not a gzipped file"),
        (b"plain", "expected a whole gzip file, got: Not a gzipped file"),
    ],
)
def test_a_broken_packed_file_is_named(tmp_path, data, message):
    path = tmp_path / "a.txt.gz"
    path.write_bytes(data)
    with pytest.raises(DataError, match=f"a.txt.gz: {message}"):
        read_bytes(path)


def test_a_pipe_and_a_device_are_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe.json")
    with pytest.raises(DataError, match=r"pipe\.json: expected a file, got a pipe: save it as a file and name that"):
        read_rows(tmp_path / "pipe.json")
    with pytest.raises(DataError, match="/dev/zero: expected a file, got a device"):
        read_rows(Path("/dev/zero"))


def archive(*files):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as book:
        for name, data in files:
            book.writestr(name, data)
    return file.getvalue()


def test_an_archive_that_unpacks_to_too_much_is_refused(tmp_path):
    bomb = archive(("word/document.xml", b" " * (100 << 20)))
    with pytest.raises(
        DataError, match=r"expected at most 64\.0 MiB of unpacked content, got 100\.0 MiB: write the doc"
    ):
        check_archive(bomb, Path("a.epub"))
    with pytest.raises(DataError, match=r"expected at most 20,000 files in the document, got 20,001"):
        check_archive(archive(*((f"{number}", b"") for number in range(20_001))), Path("a.epub"))
    check_archive(archive(("a", b"text" * 1000)), Path("a.epub"))
    for name in ("a.docx", "a.epub"):
        (tmp_path / name).write_bytes(bomb)
        with pytest.raises(DataError, match=f"{name}: expected at most 64.0 MiB of unpacked content"):
            read_sources([str(tmp_path / name)])


def test_html_nested_too_deeply_is_named(tmp_path):
    (tmp_path / "a.html").write_text("<html><body>" + "<blockquote>" * 20_000 + "x")
    with pytest.raises(DataError, match=r"a\.html: expected a HTML document, got parts nested too deeply: flatten it"):
        read_sources([str(tmp_path / "a.html")])


# -- YAML --------------------------------------------------------------------------------------------------------------


def test_honest_yaml_is_read():
    assert load_yaml("a: &a {x: 1}\nb: {<<: *a, y: 2}\nc: *a") == {"a": {"x": 1}, "b": {"x": 1, "y": 2}, "c": {"x": 1}}
    assert load_yaml("a: no", loader=yaml.BaseLoader) == {"a": "no"}
    assert load_yaml("") is None
    assert len(load_yaml("\n".join(f"- {number}" for number in range(50_000)))) == 50_000


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BOMB, "more than 200,000 values, counting what aliases repeat each time"),
        ("a: &a " + "x" * 100_000 + "\nb: [" + "*a," * 100 + "]", "more than 4,000,000 characters, counting"),
        ("a: &a [*a]", "an alias stands for what it is in itself"),
        ("[" * 101 + "]" * 101, "lists and mappings nested more than 100 deep"),
        ("- " * 100_000, "lists and mappings nested more than 100 deep"),
        ("".join(f"a{n}: &a{n} [{f'*a{n - 1}' if n else ''}]\n" for n in range(200)), "nested more than 100 deep"),
        ("a: " + "9" * 301, "a number of more than 300 digits"),
        ("a: 0x" + "f" * 1000, "a number of more than 300 digits"),
        ("a: 1" + ":1" * 1000, "a number of more than 300 digits"),
        ('a: !!int "' + "9" * 301 + '"', "a number of more than 300 digits"),
        ("a" * 4_000_001, "4,000,001 characters of at most 4,000,000"),
    ],
)
def test_yaml_beyond_a_bound_is_refused(text, message):
    with pytest.raises(BeyondBounds) as caught:
        load_yaml(text)
    assert message in str(caught.value.problem)


@pytest.mark.parametrize(
    "text",
    ['a: "\\UFFFFFFFF"', "a: 2001-13-45", "a: !!int x", "a: !!timestamp x", "a: !!bool x", "? [a]\n: 1", "a: \ud800",
     "a: !!python/object/apply:os.system [ls]", "a: [", "<<: 1", "a: =", "%YAML 9.9\n---\na"],
)  # fmt: skip
def test_whatever_is_wrong_is_an_error_of_yaml(text):
    with pytest.raises(yaml.YAMLError):
        load_yaml(text)


def test_a_survey_finds_repeated_and_empty_keys():
    found = survey("a: 1\nb: [{c: 1, c: }]\nd:\n  # e: 1\na: 2\nf: null\ng: ''\nh: ~\n'i':\n")
    assert [(key.path, key.line) for key in found.repeated] == [(("b", 0, "c"), 2), (("a",), 5)]
    assert [(key.path, key.line) for key in found.empty] == [(("b", 0, "c"), 2), (("d",), 3), (("i",), 9)]
