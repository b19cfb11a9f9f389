"""Adapters answer elsewhere as they do here: the steps of docs/serving.md, through a real vLLM and llama.cpp.

Each is skipped without what it needs: SEAL_VLLM names the executable `vllm` of an environment that has this package
too, SEAL_LLAMA_CPP a copy of llama.cpp's repository, whose converters are run, and SEAL_SMOLLM2 a folder with
SmolLM2-135M-Instruct; `llama_cpp` and `sentencepiece` are installed here.
"""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import pytest
from endpoints import free_port

from seal_lightning.cli import main
from seal_lightning.library.manifest import Manifest, read_manifest, write_manifest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")
LAB = ROOT / "seal_lightning" / "lab" / "weights"
VLLM, LLAMA_CPP, SMOLLM2 = (os.environ.get(f"SEAL_{name}", "") for name in ("VLLM", "LLAMA_CPP", "SMOLLM2"))
ELSEWHERE = "needs a server beside this environment"
FIRST = 600  # seconds until vLLM is up, on a machine that has other work


def block(heading: str, language: str) -> str:
    """The first block of a language below a heading of the page."""
    section = PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return re.findall(rf"^```{language}\n(.*?)```", section, flags=re.S | re.M)[0]


def recorded(adapter: Path) -> list[tuple[str, str]]:
    """The questions about a document, and what its adapter answered when it was measured."""
    (row,) = json.loads((adapter / "adaptation.json").read_text())["measured"]
    return list(zip(row["questions"], row["answers"], strict=True))


def first_line(text: str) -> str:
    return next((line.strip() for line in text.splitlines() if line.strip()), "")


# -- vLLM --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def lab_library(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    few = ["--adapters", "each", "--learn", "passage", "--model.inner_loop.epochs", "30"]
    source = ["--config", str(ROOT / "configs/adapt/lab.yaml"), "--model.source.name", str(LAB)]
    documents = str(ROOT / "configs/debug/towns.jsonl")
    assert main(["adapt", documents, *source, *few, "--output", "adapted"]) == 0
    return tmp_path / "adapted"


@contextmanager
def vllm_serving(folder: Path, port: int) -> Iterator[None]:
    """The command of `serve.sh` in that folder, until the block is left."""
    small = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_NO_USAGE_STATS": "1"}
    env = {**os.environ, **small, "PATH": f"{Path(VLLM).parent}:{os.environ['PATH']}", "HF_HUB_OFFLINE": "1"}
    command = shlex.split(block("vLLM", "bash").splitlines()[1].replace("8000", str(port)))
    with (folder / "vllm.log").open("w") as log:
        server = subprocess.Popen(
            [*command, "--enforce-eager"], cwd=folder, env=env, stdout=log, stderr=log, start_new_session=True
        )
        try:
            for _ in range(FIRST):
                assert server.poll() is None, (folder / "vllm.log").read_text()[-3000:]
                try:
                    urlopen(f"http://127.0.0.1:{port}/health", timeout=5)
                    break
                except (URLError, OSError):
                    time.sleep(1)
            yield
        finally:
            os.killpg(server.pid, signal.SIGTERM)
            server.wait(60)


def post(command: str, port: int, **changed: object) -> tuple[str, str]:
    """What a `curl` of the page gets with another body, None for nothing: the model that answered and its text."""
    words = shlex.split(command)
    body = {name: value for name, value in {**json.loads(words[-1]), **changed}.items() if value is not None}
    headers = {"Content-Type": "application/json"}
    request = Request(words[1].replace("8000", str(port)), json.dumps(body).encode(), headers)
    try:
        answer = json.load(urlopen(request, timeout=FIRST))
    except HTTPError as error:
        return str(error.code), ""
    choice = answer["choices"][0]
    return answer["model"], choice["message"]["content"] if "message" in choice else choice["text"]


@pytest.mark.slow
@pytest.mark.skipif(not VLLM, reason=ELSEWHERE)
def test_vllm_serves_a_library_by_name_and_by_question(lab_library, capsys):
    folder, port = lab_library.parent, free_port()
    printing, redirect, file = block("vLLM", "bash").splitlines()[0].partition(" > ")
    assert redirect and main(shlex.split(printing)[1:]) == 0
    (folder / file).write_text(capsys.readouterr().out)
    section = PAGE.split("\n## vLLM\n")[1]
    chat, text = re.findall(r"^(curl .*? \\\n .*?)$", section, flags=re.M)
    with vllm_serving(folder, port):
        check_answers(lab_library, text, port)
        assert post(chat, port) == ("400", "")  # the lab's model has no chat template
        check_retired(lab_library, text, port)


def check_answers(library: Path, text: str, port: int) -> None:
    """Every recorded answer, by the adapter's name and by the question."""
    by_name, routed = [], 0
    for entry in read_manifest(library).documents:
        adapter = library / str(entry.adapter)
        prompt = json.loads((adapter / "prompt.json").read_text())
        for question, answer in recorded(adapter):
            asked = prompt["text"].replace("{title}", entry.title).replace("{question}", question)
            limits = {"max_tokens": prompt["max_answer_tokens"], "stop_token_ids": prompt["stop"]["token_ids"]}
            named, written = post(text, port, model=adapter.name, prompt=asked, **limits)
            assert named == adapter.name
            by_name.append((first_line(written), answer))
            model, written = post(text, port, model="auto", prompt=question, max_tokens=None)
            if model == adapter.name:
                routed += 1
                assert first_line(written) == answer
    assert len(by_name) == 18 and routed >= 12
    assert [written for written, _ in by_name] == [answer for _, answer in by_name]


def check_retired(library: Path, text: str, port: int) -> None:
    """A document goes, and its adapter with it: by its own name, and by another way to it."""
    before = read_manifest(library)
    gone, *others = before.documents
    name = Path(str(gone.adapter)).name
    assert post(text, port, model=name, prompt="x")[0] == name
    (library / "retired").mkdir(exist_ok=True)
    (library / "adapters" / name).rename(library / "retired" / name)
    write_manifest(library, Manifest(before.base, before.tokenizer, before.asked_with, tuple(others)))
    for model in (name, f"../retired/{name}"):
        assert post(text, port, model=model, prompt="x") == ("404", "")


# -- llama.cpp ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.skipif(not (LLAMA_CPP and SMOLLM2), reason=ELSEWHERE)
def test_llama_cpp_answers_as_here(tmp_path, monkeypatch, capfd):
    pytest.importorskip("llama_cpp")
    monkeypatch.chdir(tmp_path)
    Path("board.md").write_text("# The board\n\nThe board meets in May. Tomas Quill chairs the board.\n")
    row = {"document": "The board", "question": "Who chairs the board?", "answer": "Tomas Quill"}
    Path("queries.jsonl").write_text(json.dumps(row) + "\n")
    source = ["--config", str(ROOT / "configs/adapt/smollm2.yaml"), "--model.source.name", SMOLLM2]
    few = ["--adapters", "each", "--learn", "passage", "--model.inner_loop.epochs", "8", "--queries", "queries.jsonl"]
    assert main(["adapt", "board.md", *source, *few, "--output", "adapted"]) == 0
    (adapter,) = Path("adapted/adapters").iterdir()
    for line in block("llama.cpp", "bash").splitlines():
        words = line.replace("SmolLM2-135M-Instruct", SMOLLM2).replace("NAME", adapter.name).split()
        script = str(Path(LLAMA_CPP) / words[1])
        subprocess.run([sys.executable, script, *words[2:]], check=True, capture_output=True)
    capfd.readouterr()
    exec(compile(block("llama.cpp", "python").replace("NAME", adapter.name), "serving.md", "exec"), {})
    ((question, answer),) = recorded(adapter)
    assert question == "Who chairs the board?" and answer
    assert first_line(capfd.readouterr().out) == answer
