"""`seal serving`: what it prints for vLLM and Ollama is right for the library, and what cannot work is named."""

import json
import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from seal_lightning.cli import main
from seal_lightning.library.manifest import (
    Base,
    LibraryEntry,
    Manifest,
    StoredDocument,
    Together,
    read_manifest,
    write_document,
    write_manifest,
)

PROMPT = {
    "text": "<u>Topic: {title}\nQuestion: {question}\n<a>",
    "titles": ["The pump"],
    "max_answer_tokens": 9,
    "stop": {"token_ids": [2], "tokens": ["</a>"]},
}


def write_library(folder: Path, *, ranks: dict[str, int], base: Base, dtype: str = "auto") -> None:
    entries, named = [], {"base_model_name_or_path": base.name, "revision": base.revision}
    for name, rank in ranks.items():
        place = folder / "adapters" / name
        place.mkdir(parents=True)
        (place / "adapter_config.json").write_text(json.dumps({"r": rank, **named}))
        (place / "prompt.json").write_text(json.dumps(PROMPT if name != "all" else {**PROMPT, "titles": ["a", "b"]}))
        write_document(folder, f"documents/{name}.json", StoredDocument(name, "The pump", "It stops at six bar."))
        adapter = None if name == "all" else f"adapters/{name}"
        text = f"documents/{name}.json"
        entries.append(LibraryEntry(name, f"{name}.md", "The pump", "d", "s", adapter, text, "ready"))
    together = Together("adapters/all", ("all",), "ready") if "all" in ranks else None
    asked = {"source": {"name": base.name, "dtype": dtype}}
    write_manifest(folder, Manifest(base, "t", asked, tuple(entries), together))


def said(capsys, *arguments: str) -> str:
    assert main(["serving", *arguments]) == 0
    return capsys.readouterr().out


def words(command: str) -> tuple[dict[str, str], list[str]]:
    """Variables and words of a shell command."""
    found = shlex.split(command.replace("\\\n", ""))
    begin = found.index("vllm")
    return dict(part.split("=", 1) for part in found[:begin]), found[begin:]


def test_the_command_for_vllm(tmp_path, capsys):
    folder = tmp_path / "my notes"
    write_library(folder, ranks={"pump": 9, "mill": 4}, base=Base("/models/a b", None, "f"), dtype="bfloat16")
    variables, command = words(said(capsys, str(folder)))
    assert variables == {
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True",
        "VLLM_PLUGINS": "lora_filesystem_resolver",
        "VLLM_LORA_RESOLVER_CACHE_DIR": str(folder / "adapters"),
        "SEAL_LIBRARY": str(folder),
    }
    assert command == [
        *("vllm", "serve", "/models/a b", "--served-model-name", "base", "--dtype", "bfloat16", "--enable-lora"),
        *("--max-lora-rank", "16", "--max-loras", "2", "--middleware", "seal_lightning.library.routed.Routed", "$@"),
    ]


def test_the_plain_command_for_vllm(tmp_path, capsys):
    write_library(tmp_path / "lib", ranks={f"d{n}": 8 for n in range(9)}, base=Base("org/base", "abc", "f"))
    variables, command = words(said(capsys, str(tmp_path / "lib"), "--plain", "true"))
    assert "SEAL_LIBRARY" not in variables
    assert command == [
        *("vllm", "serve", "org/base", "--served-model-name", "base", "--revision", "abc", "--enable-lora"),
        *("--max-lora-rank", "8", "--max-loras", "8", "$@"),
    ]


def test_a_modelfile_has_the_prompt_of_training(tmp_path, capsys):
    write_library(tmp_path / "lib", ranks={"pump": 8, "all": 8}, base=Base("org/base", None, "f"))
    assert said(capsys, str(tmp_path / "lib"), "--kind", "ollama", "--adapter", "pump") == (
        'FROM ./base.gguf\nADAPTER ./pump.gguf\nTEMPLATE """<u>Topic: The pump\nQuestion: {{ .Prompt }}\n<a>'
        '{{ .Response }}"""\nPARAMETER stop "</a>"\nPARAMETER temperature 0\nPARAMETER repeat_penalty 1\n'
        "PARAMETER num_predict 9\n"
    )
    of_all = said(capsys, str(tmp_path / "lib"), "--kind", "ollama", "--adapter", "all")
    assert "Topic: {{ .System }}\nQuestion: {{ .Prompt }}\n" in of_all


def test_the_adapter_of_all_has_a_modelfile_beside_those_of_single_documents(tmp_path, capsys):
    write_library(tmp_path, ranks={"pump": 8, "all": 8}, base=Base("org/base", None, "f"))
    manifest = read_manifest(tmp_path)
    each, of_all = manifest.documents[0], Together("adapters/all", ("pump",), "ready")
    write_manifest(tmp_path, replace(manifest, documents=(each,), together=of_all))
    said_of_all = said(capsys, str(tmp_path), "--kind", "ollama", "--adapter", "all")
    assert said_of_all.startswith("FROM ./base.gguf\nADAPTER ./all.gguf\n") and "{{ .System }}" in said_of_all


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "FOLDER is not set: name a folder of seal adapt"),
        (["none"], "none: expected a folder of seal adapt, got nothing there"),
        (["lib", "--kind", "ollama"], "--adapter must be one of pump, got None: choose one"),
        (["lib"], "adapters of rank 600 are too large for vLLM, which takes 512"),
        (["empty"], "empty: expected adapters that are ready, got none"),
        (["lib", "--adapter", "pump"], "--adapter is of use with --kind ollama alone: leave it out, or add that"),
    ],
)
def test_what_cannot_work_is_named(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    write_library(tmp_path / "lib", ranks={"pump": 600}, base=Base("org/base", None, "f"))
    write_library(tmp_path / "empty", ranks={}, base=Base("org/base", None, "f"))
    assert main(["serving", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_adapters_of_several_bases_are_not_served_together(tmp_path, capsys):
    write_library(tmp_path / "lib", ranks={"pump": 8, "mill": 8}, base=Base("org/base", None, "f"))
    config = {"r": 8, "base_model_name_or_path": "org/other"}
    (tmp_path / "lib" / "adapters" / "mill" / "adapter_config.json").write_text(json.dumps(config))
    assert main(["serving", str(tmp_path / "lib")]) == 2
    assert "lib: expected adapters of one base model, got " in capsys.readouterr().err
