"""The manifest of a library is read back as it was written, and what others have made of it leads nowhere else."""

import json
from pathlib import Path

import pytest

from seal_lightning.errors import ConfigError, DataError
from seal_lightning.library.manifest import (
    Base,
    LibraryEntry,
    Manifest,
    Retired,
    Scores,
    StoredDocument,
    Together,
    read_document,
    read_manifest,
    write_document,
    write_manifest,
)
from seal_lightning.types import Query

MAY = LibraryEntry(
    id="may-1f",
    source="notes/may.md",
    title="May",
    digest="aa",
    settings="bb",
    adapter="adapters/may-1f",
    text="documents/may-1f.json",
    status="ready",
    scores=Scores(6, 0.0, 0.5, 0.75),
    updated="2026-05-01T10:00:00Z",
)
WAS = Retired(
    id="may-0e",
    source="notes/may.md",
    title="May",
    adapter="retired/may-0e-1",
    text="documents/may-0e.json",
    why="replaced",
    by="may-1f",
    at="2026-05-01T09:00:00Z",
)
WHOLE = Manifest(
    base=Base("lab", None, "cc"),
    tokenizer="dd",
    asked_with={"source": {"name": "lab"}, "policy": None},
    documents=(MAY, LibraryEntry("june", "notes/june.md", "", "ee", "bb", None, "documents/june.json")),
    together=Together("adapters/all", ("may-1f",)),
    retired=(WAS,),
)


def test_a_manifest_is_read_as_it_was_written(tmp_path):
    write_manifest(tmp_path, WHOLE)
    assert read_manifest(tmp_path) == WHOLE
    document = StoredDocument("may-1f", "May", "Ada chairs the board.", (Query("Who chairs it?", ("Ada", "Ada M.")),))
    write_document(tmp_path, MAY.text, document)
    assert read_document(tmp_path, MAY.text) == document


def test_a_folder_that_is_no_library_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"expected a folder of seal adapt, got a folder without manifest\.json"):
        read_manifest(tmp_path)
    with pytest.raises(ConfigError, match="nowhere: expected a folder of seal adapt, got nothing there"):
        read_manifest(tmp_path / "nowhere")


def change(folder: Path, *path: str | int, to: object) -> None:
    """Set a value of the manifest on disk; the path is of keys and numbers."""
    content = json.loads((folder / "manifest.json").read_text())
    inner = content
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = to
    (folder / "manifest.json").write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("path", "to", "said"),
    [
        (("format",), 2, "field format must be 1, got the number 2: read it with the version that wrote it"),
        (("base",), [], "field base must be an object, got a list"),
        (("documents", 0, "id"), 7, "field documents[0].id must be text, got the number 7"),
        (("documents", 0, "status"), "gone", "field documents[0].status must be ready or pending or failed"),
        (("documents", 0, "scores", "after"), "high", "field documents[0].scores.after must be a number or null"),
        (("documents", 0, "scores", "queries"), True, "field documents[0].scores.queries must be a whole number"),
        (("documents", 0, "adapter"), "/etc/passwd", "field documents[0].adapter must be adapters/NAME"),
        (("documents", 0, "adapter"), "adapters/..", "field documents[0].adapter must be adapters/NAME"),
        (("documents", 0, "adapter"), "retired/may-0e", "field documents[0].adapter must be adapters/NAME"),
        (("documents", 0, "text"), "documents/../../x", "field documents[0].text must be documents/NAME"),
        (("all", "adapter"), "merged/all", "field all.adapter must be adapters or weights/NAME"),
        (("all", "documents"), ["may-1f", None], "field all.documents[1] must be text"),
        (("retired", 0, "why"), "old", "field retired[0].why must be removed or replaced"),
        (("retired", 0, "adapter"), "merged/may-0e", "field retired[0].adapter must be retired or adapters"),
    ],
)
def test_what_does_not_belong_there_is_refused_with_its_place(tmp_path, path, to, said):
    write_manifest(tmp_path, WHOLE)
    change(tmp_path, *path, to=to)
    with pytest.raises(DataError) as error:
        read_manifest(tmp_path)
    assert said in str(error.value) and str(tmp_path / "manifest.json") in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", ["", "{", "[]", '"x"', "[" * 200 + "]" * 200])
def test_a_damaged_manifest_is_one_line(tmp_path, content):
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(DataError, match=r"manifest.json.*: expected .*, got") as error:
        read_manifest(tmp_path)
    assert "\n" not in str(error.value)


def test_a_link_out_of_the_folder_is_not_followed(tmp_path):
    (tmp_path / "library" / "adapters").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    write_manifest(tmp_path / "library", WHOLE)
    (tmp_path / "library" / "adapters" / "may-1f").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DataError, match="got a link or a name that leads to"):
        read_manifest(tmp_path / "library")
