"""What trackers hold after a fit, read back with their own readers; and runs whose trackers fail."""

import json
import struct
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import yaml
from jsonargparse import Namespace
from lightning.pytorch.loggers import CSVLogger, MLFlowLogger, WandbLogger

from seal_lightning.callbacks import Trackers
from seal_lightning.cli import main
from seal_lightning.errors import ConfigError
from seal_lightning.files.extras import install
from seal_lightning.fit.loggers import Loggers
from seal_lightning.options.logger_options import place_loggers
from seal_lightning.results.table import Table, to_markdown
from seal_lightning.text.escaping import markdown_cell
from seal_lightning.trackers import TrackioLogger, tracker_of
from seal_lightning.trackers.base import flat

DEBUG = str(Path(__file__).resolve().parents[2] / "configs" / "debug" / "random.yaml")
SHORT = ["--model.e_step.repeats", "1", "--model.sampler.max_new_tokens", "8", "--model.max_answer_tokens", "4"]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Iterator[Path]:
    """The folder of a fit of two rounds that four loggers were told of, none of them where to write."""
    import wandb

    folder = tmp_path_factory.mktemp("trackers") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(Path(DEBUG).parent.parent.parent)
        patch.setenv("WANDB_MODE", "offline")  # Lightning sets it, too, and leaves it
        for name in ("DATA", "CACHE", "CONFIG"):
            patch.setenv(f"WANDB_{name}_DIR", str(folder.parent / "home"))
        loggers = ["--trainer.logger+=WandbLogger", "--trainer.logger.offline=true"]
        loggers += [f"--trainer.logger+={name}" for name in ("MLFlowLogger", "CSVLogger", "TensorBoardLogger")]
        code = main(["fit", "--config", DEBUG, f"--trainer.default_root_dir={folder}", *SHORT, *loggers])
        wandb.finish()
        wandb.teardown()
        assert code == 0
        yield folder


def wandb_records(path: Path) -> Iterator[Any]:
    """The records of a `.wandb` file, which is a log of LevelDB: blocks of 32 KiB, records in one or several pieces."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, place, whole = path.read_bytes(), 7, b""
    while place + 7 <= len(data):
        if (left := 32768 - place % 32768) < 7:
            place += left
            continue
        _, size, kind = struct.unpack_from("<IHB", data, place)
        whole += data[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4):  # whole, or its last piece
            yield Record.FromString(whole)
            whole = b""


def test_weights_and_biases_offline(run):
    (path,) = run.glob("wandb/offline-run-*/*.wandb")
    config, metrics, history, artifacts = {}, {}, [], {}
    for record in wandb_records(path):
        match record.WhichOneof("record_type"):
            case "config":
                config |= {item.key or ".".join(item.nested_key): item.value_json for item in record.config.update}
            case "metric":
                metrics[record.metric.name or record.metric.glob_name] = record.metric.step_metric
            case "history":
                items = record.history.item
                history.append({item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items})
            case "artifact":
                artifacts[record.artifact.name.rpartition("-")[0]] = record.artifact
    assert (config["model.inner_loop.rank"], config["model.sampler.max_new_tokens"]) == ("4", "8")
    assert (metrics["val/*"], metrics["reward/*"]) == ("round", "round")
    assert [row["round"] for row in history if "val/edits" in row] == [0, 1, 2]
    assert [row["round"] for row in history if "reward/mean" in row] == [0, 1]
    steps = [row["trainer/global_step"] for row in history if "trainer/global_step" in row]
    assert steps == sorted(steps)
    tables = [row for row in history if "tables/edits/path" in row]
    assert [(row["tables/edits/_type"], row["tables/edits/nrows"]) for row in tables] == [("table-file", 8)] * 2
    content = json.loads((path.parent / "files" / tables[0]["tables/edits/path"]).read_text())
    assert content["columns"][:4] == ["context", "round", "edit", "repeat"]
    assert (artifacts["policy"].type, artifacts["report"].type) == ("model", "report")
    names = {entry.path for entry in artifacts["policy"].manifest.contents}
    assert {"adapter_config.json", "adapter_model.safetensors", "selection.json"} <= names
    assert json.loads(artifacts["policy"].metadata)["monitor"] == "val/edits"


def test_mlflow_in_the_run_folder(run):
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{run}/mlflow.db")
    (found,) = client.search_runs([client.get_experiment_by_name("lightning_logs").experiment_id])
    assert (found.data.params["model.inner_loop.rank"], found.data.params["model.answerer"]) == ("4", "null")
    assert found.info.status == "FINISHED"
    rounds = client.get_metric_history(found.info.run_id, "val/edits")
    assert len(rounds) == 3
    tables = {file.path for file in client.list_artifacts(found.info.run_id, "tables")}
    names = ("best_and_worst", "edits", "answers")
    by_round = {f"tables/{name}-round-{number:03d}.json" for name in names for number in (0, 1)}
    assert tables == by_round | {"tables/accuracy_fit-round-002.json"}
    place = Path(found.info.artifact_uri.removeprefix("file://"))
    assert place.is_relative_to(run / "mlruns")
    accuracy = json.loads((place / "tables" / "accuracy_fit-round-002.json").read_text())
    assert [row[0] for row in accuracy["data"]][:3] == ["base", "passage", "edits before training"]
    assert (place / "policy" / "adapter_model.safetensors").is_file()
    assert (place / "report" / "report.html").read_text() == (run / "report.html").read_text()


def test_tensorboard(run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    (path,) = run.glob("lightning_logs/*/events*")
    events = EventAccumulator(str(path.parent))
    events.Reload()
    plugins = {
        tag: HParamsPluginData.FromString(data.plugin_data.content)
        for tag, data in events.summary_metadata.items()
        if data.plugin_data.plugin_name == "hparams"
    }
    session = plugins["_hparams_/session_start_info"].session_start_info.hparams
    assert session["model.inner_loop.rank"].number_value == 4
    compared = [info.name.tag for info in plugins["_hparams_/experiment"].experiment.metric_infos]
    assert compared[:3] == ["val/base", "val/passage", "val/edits"]
    assert "hp_metric" not in events.Tags()["scalars"]  # Lightning's stand-in, where nobody names figures
    assert [event.value for event in events.Scalars("round")] == [0, 0, 1, 1, 2]
    texts = events.Tensors("tables/edits/text_summary")
    assert len(texts) == 2
    assert texts[0].tensor_proto.string_val[0].startswith(b"| context ")


def test_plain_files(run):
    (path,) = run.glob("lightning_logs/*/metrics.csv")
    for hparams in (path.with_name("hparams.yaml"), *run.glob("lightning_logs/*/hparams.yaml")):
        settings = yaml.safe_load(hparams.read_text())
        assert (settings["model.inner_loop.rank"], settings["trainer.max_epochs"]) == (4, 2)
    head = path.read_text().splitlines()[0].split(",")
    wanted = "round e_step/success_frac e_step/kept_frac e_step/rejected_frac diversity/similarity edits/characters"
    assert set(wanted.split()) <= set(head)


# -- a run that is told to MLflow again --------------------------------------------------------------------------------


def test_mlflow_keeps_parameters_and_tags_what_changed(run, caplog):
    place = {"tracking_uri": f"sqlite:///{run}/mlflow.db", "artifact_location": (run / "mlruns").as_uri()}
    logger = MLFlowLogger(experiment_name="again", **place)
    tracker = tracker_of(logger)
    long = {f"long.{number}": "x" * 7000 for number in range(120)}
    tracker.settings({"trainer.max_epochs": 2, "filter.k": 1, **long}, metrics=())
    tracker.settings({"trainer.max_epochs": 4, "filter.k": 1, "filter.more": None, **long}, metrics=())
    data = logger.experiment.get_run(logger.run_id).data
    assert len(data.params) == 123
    assert data.params["long.119"] == "x" * 5999 + "…"
    assert (data.params["trainer.max_epochs"], data.params["filter.more"]) == ("2", "null")
    assert data.tags["changed.trainer.max_epochs"] == "4"
    (record,) = [record for record in caplog.records if record.name.startswith("seal_lightning")]
    assert record.getMessage() == (
        f"MLFlowLogger: the parameters of run {logger.run_id} cannot change: trainer.max_epochs=4 (was 2) are in its "
        "tags changed.*"
    )
    tracker.table("tables/a", Table("", ("name", "x"), (("one", 1.0),)), round=0, step=0)
    tracker.table("tables/a", Table("", ("name", "x"), (("one", 1.0),)), round=0, step=0)  # the round is done again
    place = Path(logger.experiment.get_run(logger.run_id).info.artifact_uri.removeprefix("file://"))
    assert json.loads((place / "tables/a-round-000.json").read_text())["data"] == [["one", 1.0]]


# -- trackers that fail ------------------------------------------------------------------------------------------------


def test_a_tracker_that_fails_does_not_end_the_run(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(Path(DEBUG).parent.parent.parent)
    calls = []

    def unreachable(self: Any, metrics: Any, step: Any = None) -> None:
        calls.append(step)
        raise ConnectionError("the server\nwent down")

    monkeypatch.setattr(CSVLogger, "log_metrics", unreachable)
    folder = ["--trainer.default_root_dir", str(tmp_path / "run"), "--trainer.logger", "CSVLogger"]
    assert main(["fit", "--config", DEBUG, "--trainer.max_epochs", "1", *SHORT, *folder]) == 0
    assert len(calls) == 1
    lines = [line for line in capfd.readouterr().err.splitlines() if "CSVLogger" in line]
    assert lines == [
        "seal_lightning.trackers.surviving: WARNING: CSVLogger: ConnectionError: the server went down: the run goes on "
        "without it; everything is in the run folder"
    ]
    assert (tmp_path / "run" / "fit.md").is_file()
    assert [path.name for path in tmp_path.rglob("hparams.yaml")] == ["hparams.yaml"]


def test_a_full_disk_is_no_fault_of_a_tracker(tmp_path, monkeypatch):
    logger = CSVLogger(tmp_path, name="csv")
    loggers = Loggers([logger])
    loggers.begin()

    def full(self: Any, *args: Any, **options: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(CSVLogger, "save", full)
    with pytest.raises(OSError, match="No space left"):
        logger.save()
    loggers.end()
    assert type(logger) is CSVLogger


def test_without_a_login_wandb_is_recorded_offline(tmp_path, monkeypatch, caplog):
    import wandb

    for name in ("NETRC", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR", "WANDB_CACHE_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "nothing"))
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    logger = WandbLogger(save_dir=tmp_path)
    loggers = Loggers([logger])
    loggers.begin()
    wandb.finish()
    wandb.teardown()
    loggers.end()
    (record,) = [record for record in caplog.records if record.name.startswith("seal_lightning")]
    assert record.getMessage() == (
        "WandbLogger: nobody is logged in (wandb login, or WANDB_API_KEY): recorded offline; send it later with: wandb "
        f"sync {tmp_path}/wandb/offline-run-*"
    )
    assert len(list(tmp_path.glob("wandb/offline-run-*/*.wandb"))) == 1


def test_what_a_logger_needs_is_named_before_any_work(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(
        "seal_lightning.options.logger_options.find_spec", lambda name: None if name == "alembic" else object()
    )
    run = tmp_path / "run"
    assert (
        main(["fit", "--config", DEBUG, f"--trainer.default_root_dir={run}", "--trainer.logger", "MLFlowLogger"]) == 2
    )
    assert capfd.readouterr().err.strip() == (
        f"seal: trainer.logger: MLFlowLogger needs alembic: {install('loggers')}, or give it the tracking_uri of a "
        "server"
    )
    assert not run.exists()


@pytest.mark.parametrize(("given", "used"), [("", "run"), (None, "run"), ("elsewhere", "elsewhere")])
def test_a_logger_without_a_folder_writes_into_that_of_the_run(given, used):
    trainer = Namespace(logger=Namespace(class_path="lightning.CSVLogger", init_args=Namespace(save_dir=given)))
    place_loggers(trainer, "run")
    assert trainer.logger.init_args.save_dir == used


def test_an_option_of_another_logger_is_not_proposed_again(tmp_path, capfd):
    options = ["--trainer.logger", "WandbLogger", "--trainer.logger.api_key", "sk-1"]
    assert main(["fit", "--config", DEBUG, f"--trainer.default_root_dir={tmp_path}", *options]) == 2
    assert capfd.readouterr().err.strip() == (
        "seal: --trainer.logger.api_key: the chosen class has no such option (see seal fit --help)"
    )


# -- the callback ------------------------------------------------------------------------------------------------------


def told(settings: dict[str, Any], tmp_path: Path, *, first: bool = True) -> dict[str, Any]:
    logger = CSVLogger(tmp_path, name="csv")
    trainer = SimpleNamespace(
        loggers=[logger], is_global_zero=first, run_settings=settings, state=SimpleNamespace(fn="fit")
    )
    Trackers().on_run_begin(trainer, None)
    return dict(logger.experiment.hparams)


def test_secrets_are_told_nobody(tmp_path):
    settings = {
        "model": {"seed": 3, "sampler": {"init_args": {"api_key": "sk-123456789", "url": "https://me:pw@host"}}}
    }
    assert told(settings, tmp_path) == {"model.seed": 3, "model.sampler.url": "https://host"}


def test_only_the_first_rank_tells_anything(tmp_path):
    assert told({"model": {"seed": 3}}, tmp_path, first=False) == {}


def test_dotted_names_are_those_of_the_command_line():
    settings = {
        "model": {
            "task": {"class_path": "a.Task", "init_args": {"n": 2}},
            "sampler": {"class_path": "B", "init_args": {}},
        },
        "trainer": {"logger": [{"class_path": "C", "init_args": {"x": None}}], "limit": 0.5, "plugins": []},
    }
    assert flat(settings) == {
        "model.task.class_path": "a.Task",
        "model.task.n": 2,
        "model.sampler.class_path": "B",
        "trainer.logger.0.class_path": "C",
        "trainer.logger.0.x": None,
        "trainer.limit": 0.5,
        "trainer.plugins": "[]",
    }


def test_a_long_table_says_what_it_leaves_out():
    table = Table("", ("n", "context", "x"), tuple((number, f"c{number}", 0.5) for number in range(5)))
    assert table.first(5) is table
    assert table.first(2).rows == ((0, "c0", 0.5), (1, "c1", 0.5), (None, "… and 3 more, in the journal", None))


def test_markdown_shows_texts_and_lets_none_act():
    table = Table("", ("text", "x", "n"), (("a|b\n<script>", 0.25, 3), ("", None, 0)))
    assert to_markdown(table, cell=partial(markdown_cell, longest=300)).splitlines() == [
        "| text                        | x     | n |",
        "| --------------------------- | ----- | - |",
        "| a&#124;b / &#60;script&#62; | 0.250 | 3 |",
        "|                             |       | 0 |",
    ]


@pytest.mark.parametrize("options", [{"best": 0}, {"max_rows": 0}])
def test_options_are_checked(options):
    with pytest.raises(ConfigError, match=r"trackers\.best and trackers\.max_rows must be at least 1"):
        Trackers(**options)


# -- Trackio, by a stand-in: it wants an older pillow than the one that is pinned --------------------------------------


class StandIn(ModuleType):
    """What is used of `trackio`, kept as the real one keeps it: rows of metrics by step, tables as dictionaries."""

    def __init__(self) -> None:
        super().__init__("trackio")
        self.runs: list[SimpleNamespace] = []

    def init(self, project: str, **options: Any) -> SimpleNamespace:
        run = SimpleNamespace(name=options["name"] or "invented", config={}, rows=[], artifacts=[], finished=False)
        run.log = lambda metrics, step=None: run.rows.append((step, metrics))
        run.log_artifact = run.artifacts.append
        self.runs.append(run)
        return run

    def finish(self) -> None:
        self.runs[-1].finished = True

    class Table(SimpleNamespace):
        pass

    class Artifact(SimpleNamespace):
        def __init__(self, name: str, *, type: str, metadata: dict[str, Any]) -> None:
            super().__init__(name=name, type=type, metadata=metadata, files=[])
            self.add_dir = self.add_file = self.files.append


def test_trackio(tmp_path, monkeypatch):
    trackio = StandIn()
    monkeypatch.setitem(sys.modules, "trackio", trackio)
    monkeypatch.setattr("seal_lightning.trackers.trackio_tracker._AVAILABLE", True)
    logger = TrackioLogger(run_name="first")
    tracker = tracker_of(logger)
    tracker.settings({"model.inner_loop.rank": 4}, metrics=())
    logger.log_metrics({"val/edits": 0.5, "round": 1.0}, step=12)
    tracker.table("tables/edits", Table("", ("context", "x"), (("c", 1.0),)), round=1, step=12)
    tracker.files("policy", [tmp_path], kind="model", about={"round": 1})
    logger.finalize("success")
    (run,) = trackio.runs
    assert (logger.name, logger.version, run.finished) == ("seal-lightning", "first", True)
    assert run.config == {"model.inner_loop.rank": 4}
    assert run.rows == [
        (12, {"val/edits": 0.5, "round": 1.0}),
        (12, {"tables/edits": trackio.Table(columns=["context", "x"], data=[["c", 1.0]]), "round": 1}),
    ]
    (artifact,) = run.artifacts
    assert (artifact.name, artifact.type, artifact.metadata, artifact.files) == (
        "policy", "model", {"round": 1}, [tmp_path]
    )  # fmt: skip


def test_without_trackio_its_logger_names_it(monkeypatch):
    monkeypatch.setattr("seal_lightning.trackers.trackio_tracker._AVAILABLE", False)
    with pytest.raises(ModuleNotFoundError, match=r"^TrackioLogger needs trackio: pip install 'trackio>=0\.40'$"):
        TrackioLogger()
