"""Uploads to a small hub of our own: what is refused before any work, what arrives, and what a failure says."""

import json
import logging
import shutil
from types import SimpleNamespace

import pytest
from fake_hub import FakeHub
from huggingface_hub import ModelCard, constants

from seal_lightning.cli import main
from seal_lightning.errors import ConfigError, HubError
from seal_lightning.sharing import hub as hub_module
from seal_lightning.sharing.hub import Destination, Export, destination_of, upload

# huggingface_hub uploads large files in a way that its HTTP client deprecates
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
TOKEN = "hf_fake_token_for_tests_0001"


@pytest.fixture(autouse=True)
def online(monkeypatch, tmp_path):
    """As a user's process: not offline, no token of this machine, large files in the plain way."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setattr("huggingface_hub.utils._http._DEFAULT_RETRY_ON_STATUS_CODES", (), raising=False)
    monkeypatch.delenv("HF_TOKEN", raising=False)


@pytest.fixture
def a_hub(monkeypatch):
    """Starts a hub that this process talks to: `a_hub(faults={...})`."""
    started = []

    def start(**options):
        server = FakeHub(**options).__enter__()
        started.append(server)
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        return server

    yield start
    for server in started:
        server.__exit__()


def options(**changes):
    given = {"push_to_hub": True, "hub_model_id": None, "hub_private_repo": True, "hub_revision": None}
    return SimpleNamespace(**{**given, **changes})


@pytest.fixture
def export(tmp_path):
    """An adapter as `seal fit` exports it, with a file of the user's beside it."""
    folder = tmp_path / "run" / "policy"
    folder.mkdir(parents=True)
    (tmp_path / "local-base").mkdir()
    config = {"base_model_name_or_path": str(tmp_path / "local-base"), "r": 2}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    (folder / "adapter_model.safetensors").write_bytes(b"weights" * 100)
    (folder / "README.md").write_text('---\nlicense: mit\n---\n\nWEIGHTS = "policy"  # here\n')
    for name in ("notes.txt", ".saving-1", "rollouts.jsonl", "adaptation.json"):
        (folder / name).write_text("private")
    (folder / "tokenizer.json").symlink_to(tmp_path / "local-base")  # leads out of the folder
    return Export(folder)


# -- before any work ---------------------------------------------------------------------------------------------------


def test_nothing_is_asked_where_nothing_is_wanted():
    assert destination_of(options(push_to_hub=False), folder="run") is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"push_to_hub": False, "hub_model_id": "me/x"}, "hub_model_id is set but push_to_hub is not: add --push"),
        ({"push_to_hub": False, "hub_revision": "v1"}, "hub_revision is set but push_to_hub is not: add --push"),
        (
            {"push_to_hub": "me/x", "hub_model_id": "me/y"},
            "push_to_hub names me/x, but hub_model_id names me/y: give only",
        ),
        ({"push_to_hub": "me/to wns"}, "expected a repository's name such as me/towns, got 'me/to wns'"),
        ({"hub_model_id": "a/b/c"}, "expected a repository's name such as me/towns, got 'a/b/c'"),
        ({"push_to_hub": "me/x"}, "expected a token of the Hugging Face hub, got none: set HF_TOKEN, or run `hf auth"),
    ],
)
def test_what_cannot_work_is_refused(changes, message):
    with pytest.raises(ConfigError, match=message.replace("(", r"\(")):
        destination_of(options(**changes), folder="run")


def test_offline_is_refused(monkeypatch, a_hub):
    a_hub()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match="keeps this process off the hub: unset it, or leave push_to_hub out"):
        destination_of(options(push_to_hub="me/x"), folder="run")


@pytest.mark.parametrize(
    ("hub", "message"),
    [
        ({"token": "another"}, r"the hub does not accept the token \(401\): set HF_TOKEN to a valid one"),
        ({"faults": {"whoami": 403}}, r"the hub does not accept the token \(403\)"),
        ({"role": "read"}, "expected a token that may write, got one that may only read"),
    ],
)
def test_a_token_that_may_not_write_is_refused(a_hub, hub, message):
    a_hub(**hub)
    with pytest.raises(ConfigError, match=message) as caught:
        destination_of(options(push_to_hub="me/x"), folder="run")
    assert TOKEN not in str(caught.value)


def test_a_hub_that_does_not_answer_yet_stops_nothing(a_hub, caplog):
    a_hub(faults={"whoami": 500})
    with caplog.at_level(logging.WARNING):
        assert destination_of(options(push_to_hub="me/x"), folder="run") == Destination("me/x")
    assert "the hub does not answer" in caplog.text and TOKEN not in caplog.text


def test_the_repository_is_called_like_the_folder_where_no_name_is_given(a_hub, tmp_path):
    server = a_hub()
    found = destination_of(options(hub_private_repo=False, hub_revision="trial"), folder=tmp_path / "my run, 2")
    assert found == Destination("me/my-run-2", private=False, revision="trial")
    assert destination_of(options(hub_model_id="org/x"), folder="run") == Destination("org/x")
    assert destination_of(options(hub_model_id="x"), folder="run", ask=False) == Destination("x")
    assert sum("whoami" in request for request in server.requests) == 2


def test_a_fit_without_a_token_does_nothing(tmp_path, capsys):
    run = tmp_path / "run"
    args = ["--config", "configs/debug/random.yaml", "--trainer.default_root_dir", str(run), "--push_to_hub", "me/x"]
    assert main(["fit", *args]) == 2
    assert capsys.readouterr().err == (
        "seal: push_to_hub: expected a token of the Hugging Face hub, got none: set HF_TOKEN, or run `hf auth login`\n"
    )
    assert not run.exists()


# -- what arrives ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("moved", [False, True])
def test_only_ours_arrives_and_no_place_of_this_machine(a_hub, export, tmp_path, moved, caplog):
    server = a_hub(moved=moved)
    with caplog.at_level(logging.INFO, logger="seal_lightning"):
        assert upload(Destination("me/towns"), [export]) == [f"{server.url}/me/towns"]
    arrived = server.files["me/towns"]
    assert sorted(arrived) == ["README.md", "adapter_config.json", "adapter_model.safetensors"]
    assert arrived["adapter_model.safetensors"] == b"weights" * 100
    assert json.loads(arrived["adapter_config.json"]) == {"base_model_name_or_path": "local-base", "r": 2}
    assert arrived["README.md"].decode() == '---\nlicense: mit\n---\n\nWEIGHTS = "me/towns"\n'
    assert server.private == {"me/towns": True} and server.commits == ["me/towns@main"]
    assert (
        "not uploaded, because they do not belong to the weights: adaptation.json, notes.txt, rollouts.jsonl, tokeni"
        in (caplog.text)
    )
    assert TOKEN not in caplog.text
    assert str(tmp_path) in (export.folder / "adapter_config.json").read_text()  # here it stays as it was


def test_another_branch_and_a_public_repository(a_hub, export):
    server = a_hub()
    upload(Destination("towns", private=False, revision="trial"), [export])
    assert (server.private, server.branches, server.commits) == ({"me/towns": False}, ["trial"], ["me/towns@trial"])


def test_whole_weights_get_a_repository_of_their_own(a_hub, export):
    server = a_hub()
    addresses = upload(Destination("me/towns"), [export, Export(export.folder, suffix="-merged")])
    assert addresses == [f"{server.url}/me/towns", f"{server.url}/me/towns-merged"]


# -- what fails --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "faults", [{"create": 403}, {"preupload": 500}, {"objects": 500}, {"batch": 404}, {"commit": 503}, {"commit": 401}]
)
def test_a_failure_says_how_to_repeat_it(a_hub, export, monkeypatch, faults):
    a_hub(faults=faults)
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # between the library's own attempts
    before = {path.name: path.read_bytes() for path in export.folder.iterdir() if path.is_file()}
    with pytest.raises(HubError) as caught:
        upload(Destination("me/towns", revision="trial"), [export])
    said = str(caught.value)
    assert said.startswith("upload to me/towns failed (") and TOKEN not in said and "\n" not in said
    assert said.endswith(
        f"nothing is lost, {export.folder} is whole: add --push_to_hub to the command that resumes, or repeat with hf "
        f"upload me/towns {export.folder} . --revision trial"
    )
    assert caught.value.exit_code == 1
    assert before == {path.name: path.read_bytes() for path in export.folder.iterdir() if path.is_file()}


def test_a_hub_that_is_gone(a_hub, export, monkeypatch):
    server = a_hub()
    server.__exit__()
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    with pytest.raises(HubError, match=r"upload to me/towns failed \(.*Connection refused.*\); nothing is lost"):
        upload(Destination("me/towns"), [export])
    monkeypatch.setattr(server, "__exit__", lambda: None, raising=False)


# -- commands ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def runs(lab_runs, tmp_path):
    """A copy of finished runs of the lab, which may be written to."""
    shutil.copytree(lab_runs, tmp_path / "lab")
    return tmp_path / "lab"


def test_a_finished_fit_is_uploaded_by_resuming_it(a_hub, runs, capsys):
    server = a_hub()
    config = ["--config", str(runs / "fit.yaml"), "--trainer.default_root_dir", str(runs / "run")]
    assert main(["fit", *config, "--ckpt_path", "last", "--push_to_hub", "--hub_model_id", "me/towns"]) == 0
    out, err = capsys.readouterr()
    assert f"uploaded: {server.url}/me/towns\nuploaded: {server.url}/me/towns-merged\n" in out
    assert set(server.files) == {"me/towns", "me/towns-merged"}
    arrived = server.files["me/towns"]
    assert {"README.md", "adapter_config.json", "adapter_model.safetensors", "tokenizer.json"} <= set(arrived)
    assert arrived["adapter_model.safetensors"] == (runs / "run" / "policy" / "adapter_model.safetensors").read_bytes()
    card = ModelCard(arrived["README.md"].decode())
    assert card.data.base_model == "lab" and 'WEIGHTS = "me/towns"\n' in card.text
    assert not [name for files in server.files.values() for name in files if name.endswith((".jsonl", ".ckpt"))]
    assert TOKEN not in out + err
    written = [path for path in runs.rglob("*") if path.is_file()]
    assert not [path for path in written if TOKEN.encode() in path.read_bytes()]


def test_several_adapters_of_one_base_share_a_repository(a_hub, runs, capsys, monkeypatch):
    server = a_hub(faults={"commit": 500})
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    output = ["--output", str(runs / "adapted"), "--resume", "--push_to_hub", "me/towns", "--hub_private_repo", "false"]
    command = ["adapt", str(runs / "documents.jsonl"), "--config", str(runs / "adapt.yaml"), *output]
    assert main(command) == 1
    assert f"hf upload me/towns {runs}/adapted/adapters/town-0 town-0 && hf upload" in capsys.readouterr().err
    server.faults.clear()
    assert main(command) == 0
    assert sorted(name for name in server.files["me/towns"] if name.endswith("README.md")) == [
        "README.md", "town-0/README.md", "town-1/README.md",
    ]  # fmt: skip
    code = server.files["me/towns"]["town-1/README.md"].decode()
    assert 'PeftModel.from_pretrained(base, WEIGHTS, subfolder="town-1")' in code
    assert server.private == {"me/towns": False, "me/towns-merged": False}
    whole = server.files["me/towns-merged"]["town-1/README.md"].decode()
    assert 'AutoModelForCausalLM.from_pretrained(WEIGHTS, subfolder="town-1", dtype="auto")' in whole


def test_a_run_that_exported_nothing_says_so(a_hub, monkeypatch, tmp_path):
    assert hub_module.upload(Destination("me/x"), []) == []
