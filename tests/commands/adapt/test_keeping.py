"""A folder of documents kept current: what changed is trained again, what is gone is retired, the rest is untouched."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from adapted_towns import state_of, write_notes

from seal_lightning.commands.adapt import command as adapt
from seal_lightning.commands.adapt import keeping, making, writing
from seal_lightning.errors import ConfigError, JournalError, StaleJournalError
from seal_lightning.files import saving
from seal_lightning.files.ownership import FolderInUse
from seal_lightning.library.manifest import Manifest, read_document, read_manifest
from seal_lightning.records.entries import read_entries
from seal_lightning.records.journal import Journal, read_rollouts


def arguments(folder: Path, output: Path, *options: str) -> list[str]:
    config = ["--config", str(folder / "config.yaml"), "--queries", str(folder / "queries.jsonl")]
    return [str(folder / "notes"), *config, "--output", str(output), *options]


def update(folder: Path, output: Path, *options: str) -> None:
    adapt.main(arguments(folder, output, "--resume", *options))


def fill(folder: Path) -> None:
    """A library of four notes, `first`; and the same brought up to date, `later`."""
    write_notes(folder, later=False)
    adapt.main(arguments(folder, folder / "first"))
    write_notes(folder, later=True)
    shutil.copytree(folder / "first", folder / "later")
    update(folder, folder / "later")


@pytest.fixture
def kept(once) -> Path:
    return once("kept-notes", fill)


def by_source(manifest: Manifest) -> dict[str, keeping.LibraryEntry]:
    return {entry.source: entry for entry in manifest.documents}


def files(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()}


# -- what stays, and what goes -----------------------------------------------------------------------------------------


def test_a_first_run_leaves_a_manifest_of_its_documents(kept):
    manifest = read_manifest(kept / "first")
    entries = by_source(manifest)
    assert list(entries) == ["alba.md", "berg.md", "cove.md", "dale.md"]
    for entry in entries.values():
        assert entry.status == "ready" and entry.adapter == f"adapters/{entry.id}" and entry.updated
        assert (kept / "first" / entry.adapter / "adapter_model.safetensors").is_file()
        result = json.loads((kept / "first" / entry.adapter / "adaptation.json").read_text())
        (row,) = result["measured"]
        asked = len(row["scores"])  # those that did not choose among edits
        assert entry.scores.queries == asked > 0 and entry.scores.after == sum(row["scores"]) / asked
        stored = read_document(kept / "first", entry.text)
        assert stored.title == entry.title and len(stored.queries) == asked and stored.text
    assert manifest.together and manifest.together.status == "ready" and not manifest.retired
    assert manifest.together.documents == tuple(entry.id for entry in entries.values())


def test_only_what_changed_is_written_about_and_trained_again(kept, tmp_path, monkeypatch, capsys):
    shutil.copytree(kept / "first", tmp_path / "out")
    before = by_source(read_manifest(tmp_path / "out"))
    untouched = {source: files(tmp_path / "out" / before[source].adapter) for source in ("alba.md", "dale.md")}
    trained: list[str] = []
    train = making.train

    def noted(loop, policy, jobs, **more):
        trained.extend(job.training_sequences[-1].text for job in jobs)
        return train(loop, policy, jobs, **more)

    monkeypatch.setattr(making, "train", noted)
    update(kept, tmp_path / "out")
    after = by_source(read_manifest(tmp_path / "out"))
    assert list(after) == ["alba.md", "berg.md", "moved.md", "new.md"]
    assert files(tmp_path / "out" / after["alba.md"].adapter) == untouched["alba.md"]
    assert after["moved.md"] == replace(before["dale.md"], source="moved.md")
    assert files(tmp_path / "out" / after["moved.md"].adapter) == untouched["dale.md"]
    assert len(trained) == 3  # the changed and the new one, and the one for all
    said = capsys.readouterr().err
    assert (
        "4 documents: 2 unchanged, 1 changed, 1 new (1 renamed); 1 removed (adapter moved to retired/)\n"
        "one adapter for all: trained again on all documents, the one before moved to retired/\n"
    ) in said
    written = [rollout.context_id for rollout in read_rollouts(tmp_path / "out" / "journal", "adapt")]
    assert len(written) == 2 * (4 + 2) and len(set(written)) == 6
    table = (tmp_path / "out" / "adapt.md").read_text()
    assert all(f"| {entry.title} " in table for entry in after.values())
    assert f"| {before['cove.md'].title} " not in table


def test_what_was_replaced_or_removed_is_retired_and_says_why(kept):
    manifest, before = read_manifest(kept / "later"), by_source(read_manifest(kept / "first"))
    found = {one.source: one for one in manifest.retired}
    berg, cove, together = found["berg.md"], found["cove.md"], found[""]
    assert (berg.id, berg.why, berg.by) == (before["berg.md"].id, "replaced", by_source(manifest)["berg.md"].id)
    assert (cove.id, cove.why, cove.by) == (before["cove.md"].id, "removed", None)
    assert (together.id, together.why, together.adapter) == ("all", "retrained", "retired/all-1")
    for one in (berg, cove, together):
        was = "adapters/all" if one is together else before[one.source].adapter
        place, origin = kept / "later" / one.adapter, kept / "first" / was
        assert {path.name: path.read_bytes() for path in place.iterdir()} == {
            path.name: path.read_bytes() for path in origin.iterdir()
        }
    for one in (berg, cove):
        assert (kept / "later" / one.text).read_bytes() == (kept / "first" / before[one.source].text).read_bytes()
    current = {entry.id for entry in manifest.documents}
    assert {path.name for path in (kept / "later" / "adapters").iterdir()} == {"all", *current}
    assert {path.stem for path in (kept / "later" / "documents").iterdir()} == current
    assert not list((kept / "later" / "training").iterdir())


def test_an_id_that_the_data_gives_keeps_its_name_through_several_versions(tmp_path):
    """The adapters of earlier versions lie side by side in retired/."""
    write_notes(tmp_path, later=False)
    rows, options = tmp_path / "rows.jsonl", ("--adapters", "each")

    def run(text: str, *more: str) -> None:
        rows.write_text(json.dumps({"id": "wax", "title": "Wax", "passage": text}) + "\n")
        adapt.main([str(rows), "--config", str(tmp_path / "config.yaml"), "--output", str(tmp_path / "out"), *more])

    contents = []
    for number, text in enumerate(("Dry Ferry sells wax.", "Dry Ferry sells salt.", "Dry Ferry sells tin.")):
        run(text, *options, *(["--resume"] if number else []))
        contents.append((tmp_path / "out" / "adapters" / "wax" / "adapter_model.safetensors").read_bytes())
    manifest = read_manifest(tmp_path / "out")
    assert [(one.adapter, one.why, one.by) for one in manifest.retired] == [
        ("retired/wax-1", "replaced", "wax"),
        ("retired/wax-2", "replaced", "wax"),
    ]
    kept = [(tmp_path / "out" / one.adapter / "adapter_model.safetensors").read_bytes() for one in manifest.retired]
    assert [*kept, contents[-1]] == contents and len(set(contents)) == 3
    assert read_document(tmp_path / "out", manifest.retired[0].text).text == "Dry Ferry sells wax."
    (entry,) = read_entries(str(tmp_path / "out"))  # as a report reads it
    assert [one.context_id for one in entry.rollouts] == ["wax", "wax"]
    assert entry.rollouts == tuple(read_rollouts(tmp_path / "out" / "journal", "adapt")[-2:])


def test_a_changed_document_keeps_the_edits_of_its_unchanged_passages(tmp_path, monkeypatch):
    write_notes(tmp_path, later=False)
    for note in (tmp_path / "notes").iterdir():
        note.unlink()
    (tmp_path / "queries.jsonl").write_text("")
    pieces = [f"{word} " * 12 + "is here.\n" for word in ("Alba", "Berg", "Cove")]
    note, options = tmp_path / "notes" / "long.md", ("--passage_chars", "100", "--adapters", "each", "--keep", "null")

    def run(*more: str) -> None:
        config = ["--config", str(tmp_path / "config.yaml"), "--output", str(tmp_path / "out")]
        adapt.main([str(tmp_path / "notes"), *config, *options, *more])

    note.write_text("# Long\n\n" + "\n".join(pieces))
    run()
    asked: list[int] = []
    write = writing.write_edits

    def noted(policy, work, *rest, **more):
        asked.extend(len(unit) for unit in work.values())
        return write(policy, work, *rest, **more)

    monkeypatch.setattr(writing, "write_edits", noted)
    note.write_text("# Long\n\n" + "\n".join([*pieces[:2], "Dale " * 12 + "is new.\n"]))
    run("--resume")
    assert asked == [1]
    rollouts = read_rollouts(tmp_path / "out" / "journal", "adapt")
    texts = {id: [one.text for one in rollouts if one.context_id == id] for id in {one.context_id for one in rollouts}}
    (entry,) = read_manifest(tmp_path / "out").documents
    (before,) = read_manifest(tmp_path / "out").retired
    assert [texts[f"{entry.id}#{n}"] == texts[f"{before.id}#{n}"] for n in (1, 2, 3)] == [True, True, False]


def test_a_dry_run_counts_only_what_is_to_be_done(kept, tmp_path, capsys):
    before = state_of(kept / "first")
    update(kept, kept / "first", "--dry_run")
    said = capsys.readouterr()
    assert "2 passages x 2" in said.out and "one for all" in said.out
    assert "4 documents: 2 unchanged, 1 changed, 1 new (1 renamed); 1 removed" in said.err
    assert state_of(kept / "first") == before
    update(kept, kept / "later", "--dry_run")
    assert capsys.readouterr().out == "nothing is to be done\n"
    write_notes(tmp_path, later=True)
    (tmp_path / "notes" / "new.md").unlink()
    rows = (tmp_path / "queries.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "queries.jsonl").write_text("".join(rows[:-3]))
    update(tmp_path, kept / "later", "--dry_run")
    said = capsys.readouterr().out
    assert "self-edits" not in said and "final adapters" in said and "one for each document" not in said


def test_other_settings_are_refused_before_anything_is_moved(kept, tmp_path):
    shutil.copytree(kept / "first", tmp_path / "out")
    before = state_of(tmp_path / "out")
    for option, said in (
        ("--together.epochs=3", r"together.epochs: was 2, is 3"),
        ("--passage_chars=500", r"passage_chars: was 2000, is 500"),
        ("--contexts_per_unit=3", r"contexts_per_unit: was 2, is 3"),
    ):
        with pytest.raises(StaleJournalError, match=said):
            update(kept, tmp_path / "out", option)
    assert state_of(tmp_path / "out") == before


def test_an_adapter_for_all_that_is_no_longer_asked_for_is_outdated(kept, tmp_path):
    shutil.copytree(kept / "first", tmp_path / "out")
    update(kept, tmp_path / "out", "--adapters", "each")
    manifest = read_manifest(tmp_path / "out")
    assert manifest.together is None and not (tmp_path / "out" / "adapters" / "all").exists()
    assert [one.why for one in manifest.retired if one.id == "all"] == ["outdated"]


def test_one_adapter_for_all_alone_is_trained_again_when_the_documents_change(tmp_path):
    write_notes(tmp_path, later=False)
    options = ("--adapters", "all", "--learn", "passage", "--merged")
    adapt.main(arguments(tmp_path, tmp_path / "out", *options))
    entries = read_manifest(tmp_path / "out").documents
    assert all(entry.status == "ready" and entry.adapter is None for entry in entries)
    assert all(entry.scores.after is not None for entry in entries)
    write_notes(tmp_path, later=True)
    update(tmp_path, tmp_path / "out", *options)
    assert (tmp_path / "out" / "retired" / "all-1" / "merged" / "model.safetensors").is_file()
    assert (tmp_path / "out" / "merged" / "all" / "model.safetensors").is_file()
    before = state_of(tmp_path / "out")
    update(tmp_path, tmp_path / "out", *options)
    assert state_of(tmp_path / "out") == before


def test_what_failed_is_tried_again_only_when_its_document_changes(kept, tmp_path, monkeypatch, capsys):
    shutil.copytree(kept / "later", tmp_path / "out")
    manifest = read_manifest(tmp_path / "out")
    (first, *others) = manifest.documents
    scores = replace(first.scores, after=None)
    failed = replace(
        first, adapter=None, status="failed", reason="its training diverged (so)", updated="", scores=scores
    )
    keeping.write_manifest(tmp_path / "out", replace(manifest, documents=(failed, *others)))
    shutil.rmtree(tmp_path / "out" / first.adapter)
    monkeypatch.setattr(making, "train", None)
    update(kept, tmp_path / "out")
    assert f"{first.id}: not written in an earlier run, because its training diverged (so)" in capsys.readouterr().err
    assert read_manifest(tmp_path / "out").documents[0] == failed


# -- broken off --------------------------------------------------------------------------------------------------------


class Killed(BaseException):
    """Nothing in the command catches it."""


def breaking(patch: pytest.MonkeyPatch, suits: Callable[[str], bool]) -> None:
    """End the process's work before the first write that suits; of a journal, the name is `journal`."""
    put, write = saving._put, Journal._write

    def put_until(new: Path, path: Path, *, old: Path) -> None:
        if suits(str(path)):
            raise Killed
        put(new, path, old=old)

    def write_until(self: Journal, rows: list[dict[str, object]]) -> None:
        if suits("journal"):
            raise Killed
        write(self, rows)

    patch.setattr(saving, "_put", put_until)
    patch.setattr(Journal, "_write", write_until)


PLACES = {
    "before the manifest": lambda path: path.endswith("manifest.json"),
    "within the moves": lambda path: path.endswith("-1.json"),
    "before a text": lambda path: "/documents/" in path,
    "before the plan": lambda path: path.endswith("plan.json"),
    "before the edits": lambda path: path == "journal",
    "before the checkpoints": lambda path: "/training/" in path,
    "before the adapter of all": lambda path: path.endswith("/adapters/all"),
    "before the table": lambda path: path.endswith("adapt.md"),
}


@pytest.mark.parametrize("place", PLACES)
def test_an_update_that_was_broken_off_ends_with_the_same_bytes(kept, tmp_path, monkeypatch, place):
    shutil.copytree(kept / "first", tmp_path / "out")
    with monkeypatch.context() as patch:
        breaking(patch, PLACES[place])
        with pytest.raises(Killed):
            update(kept, tmp_path / "out")
    update(kept, tmp_path / "out")
    assert state_of(tmp_path / "out") == state_of(kept / "later")


KILLED = """
import os, signal, sys
from seal_lightning.commands.adapt import command
from seal_lightning.files import saving
put = saving._put
def killed(new, path, *, old):
    if os.environ["KILLED_AT"] in str(path):
        os.kill(os.getpid(), signal.SIGKILL)
    put(new, path, old=old)
saving._put = killed
command.main(sys.argv[1:])
"""


def test_a_process_that_was_killed_twice_within_an_update_loses_nothing(kept, tmp_path):
    shutil.copytree(kept / "first", tmp_path / "out")
    for place in ("retired/all-1", "adapters/all"):
        command = [sys.executable, "-c", KILLED, *arguments(kept, tmp_path / "out", "--resume")]
        ended = subprocess.run(command, env={**os.environ, "KILLED_AT": place}, capture_output=True, check=False)
        assert ended.returncode == -signal.SIGKILL, ended.stderr
    update(kept, tmp_path / "out")
    assert state_of(tmp_path / "out") == state_of(kept / "later")


def test_documents_that_change_while_an_update_is_broken_off_are_planned_anew(kept, tmp_path, monkeypatch):
    """Back to the documents of the first run: its own edits are still in the journal."""
    write_notes(tmp_path, later=True)
    shutil.copytree(kept / "first", tmp_path / "out")
    with monkeypatch.context() as patch:
        breaking(patch, PLACES["before the edits"])
        with pytest.raises(Killed):
            update(tmp_path, tmp_path / "out")
    write_notes(tmp_path, later=False)
    update(tmp_path, tmp_path / "out")
    before, after = by_source(read_manifest(kept / "first")), by_source(read_manifest(tmp_path / "out"))
    assert [entry.id for entry in after.values()] == [entry.id for entry in before.values()]
    assert all(entry.status == "ready" for entry in after.values())
    journals = [read_rollouts(folder / "journal", "adapt") for folder in (kept / "first", tmp_path / "out")]
    assert journals[0] == journals[1]
    weights = "adapter_model.safetensors"
    assert all(
        (kept / "first" / entry.adapter / weights).read_bytes()
        == (tmp_path / "out" / entry.adapter / weights).read_bytes()
        for entry in after.values()
    )


# -- beside others -----------------------------------------------------------------------------------------------------


OWNING = """
import sys
from pathlib import Path
from seal_lightning.files.ownership import owning
with owning(Path(sys.argv[1]), option="--output"):
    print("owned", flush=True)
    sys.stdin.read()
"""


def test_a_second_process_is_told_who_owns_the_folder(kept, tmp_path):
    shutil.copytree(kept / "first", tmp_path / "out")
    before = state_of(tmp_path / "out")
    command = [sys.executable, "-c", OWNING, str(tmp_path / "out")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None and other.stdout.readline() == b"owned\n"
        with pytest.raises(FolderInUse) as error:
            update(kept, tmp_path / "out")
        other.communicate(b"")
    assert "\n" not in str(error.value) and str(tmp_path / "out") in str(error.value)
    assert state_of(tmp_path / "out") == before


def test_a_reader_always_sees_a_whole_manifest(kept, tmp_path):
    shutil.copytree(kept / "first", tmp_path / "out")
    seen, over = [], threading.Event()

    def read() -> None:
        while not over.is_set():
            manifest = read_manifest(tmp_path / "out")
            seen.append(tuple(entry.status for entry in manifest.documents))
            served = {entry.adapter for entry in manifest.documents if entry.status == "ready"}
            assert served.isdisjoint(one.adapter for one in manifest.retired)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        update(kept, tmp_path / "out")
    finally:
        over.set()
        reader.join()
    assert ("ready", "pending", "ready", "pending") in seen


# -- what asking takes -------------------------------------------------------------------------------------------------


def test_the_manifest_says_what_asking_takes_and_no_path_of_this_machine(kept):
    manifest = read_manifest(kept / "later")
    asked = manifest.asked_with
    assert asked["source"]["name"] == "lab" and manifest.base.name == manifest.tokenizer == "lab"
    assert asked["task"]["class_path"] == "seal_lightning.Knowledge"
    assert asked["max_answer_tokens"] == 2 and asked["chat"] is False
    assert (asked["policy"], asked["generator"], asked["skill"]) == (None, None, None)
    assert str(kept) not in (kept / "later" / "manifest.json").read_text()


def test_a_damaged_manifest_stops_the_command_with_one_line(kept, tmp_path):
    shutil.copytree(kept / "first", tmp_path / "out")
    (tmp_path / "out" / "manifest.json").write_text("{")
    with pytest.raises((ConfigError, ValueError), match=re.escape(str(tmp_path / "out" / "manifest.json"))):
        update(kept, tmp_path / "out")


def test_without_a_manifest_what_belongs_to_no_current_document_is_retired(kept, tmp_path, caplog):
    shutil.copytree(kept / "first", tmp_path / "out")
    before = by_source(read_manifest(tmp_path / "out"))
    (tmp_path / "out" / "manifest.json").unlink()
    update(kept, tmp_path / "out", "--adapters", "each")
    manifest = read_manifest(tmp_path / "out")
    current = {entry.adapter for entry in manifest.documents}
    assert {f"adapters/{path.name}" for path in (tmp_path / "out" / "adapters").iterdir()} == current
    gone = {entry.id for entry in before.values()} - {entry.id for entry in manifest.documents}
    assert gone and {Path(one.adapter).name for one in manifest.retired} == {f"{name}-1" for name in (*gone, "all")}
    assert all((tmp_path / "out" / one.adapter).is_dir() for one in manifest.retired)
    assert "of no current document, moved to retired/" in caplog.text
    update(kept, tmp_path / "out", "--adapters", "each")
    assert read_manifest(tmp_path / "out") == manifest


def test_a_lost_prompt_is_written_again_and_a_lost_plan_named(kept, tmp_path):
    shutil.copytree(kept / "later", tmp_path / "out")
    before = state_of(tmp_path / "out")
    entry = read_manifest(tmp_path / "out").documents[0]
    (tmp_path / "out" / entry.adapter / "prompt.json").unlink()
    update(kept, tmp_path / "out")
    assert state_of(tmp_path / "out") == before
    (tmp_path / "out" / "plan.json").unlink()
    with pytest.raises(JournalError, match=r"out/plan\.json: expected the plan of the units in .*journal"):
        update(kept, tmp_path / "out")
