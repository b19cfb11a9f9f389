"""Every option of `seal fit` is in the stamp of the run, noted where it changes, or free to change; a new one is told.

Here an option is tried: with another value of it, the stamp differs, or it does not.
"""

import inspect
import json
import logging

import pytest
import torch

from seal_lightning.callbacks import CheckpointSelection, EStepProgress, RolloutTable, Trackers
from seal_lightning.commands import fit as command_line
from seal_lightning.fit.stamp import device_name, fit_stamp, is_noted
from seal_lightning.stamps.values import changed_keys

# the command line silences other packages; here unusual options are tried, which they comment on
pytestmark = pytest.mark.filterwarnings("ignore")

# What the figures depend on: a resume with another value is refused.
STAMPED = {
    "seed_everything": "3",
    "trainer.validate_first": "false",
    "trainer.use_distributed_sampler": "true",
    "trainer.precision": "bf16-true",
    "trainer.fast_dev_run": "1",
    "trainer.limit_train_batches": "3",
    "trainer.limit_val_batches": "3",
    "trainer.overfit_batches": "2",
    "trainer.check_val_every_n_epoch": "2",
    "trainer.accumulate_grad_batches": "2",
    "trainer.gradient_clip_val": "0.5",
    "trainer.gradient_clip_algorithm": "value",
    "trainer.deterministic": "true",
    "model.source.name": "random/qwen3",
    "model.source.dtype": "bfloat16",
    "model.source.chat": "on",
    "model.source.template_args": "{}",
    "model.source.date": "2020-01-01",
    "model.source.revision": "main",
    "model.source.attention": "eager",
    "model.source.matmul": "highest",
    "model.source.quantization": "8bit",
    "model.source.gguf_file": "file.gguf",
    "model.source.seed": "4",
    "model.tuning.method": "full",
    "model.tuning.rank": "3",
    "model.tuning.alpha": "3.0",
    "model.tuning.dropout": "0.25",
    "model.tuning.target_modules": "[q_proj]",
    "model.tuning.round_start": "continue",
    "model.task": '{"class_path": "seal_lightning.tasks.Knowledge", "init_args": {"title_prefix": false}}',
    "model.sampler": '{"class_path": "seal_lightning.sampling.LocalSampler", "init_args": {"temperature": 0.3}}',
    "model.evaluation_sampler": '{"class_path": "seal_lightning.sampling.LocalSampler", "init_args": {"top_p": 0.3}}',
    "model.inner_loop.rank": "3",
    "model.inner_loop.alpha": "3.0",
    "model.inner_loop.target_modules": "all-linear",
    "model.inner_loop.layers": "attention",
    "model.inner_loop.objective": "distill",
    "model.inner_loop.learning_rate": "0.5",
    "model.inner_loop.schedule": "constant",
    "model.inner_loop.epochs": "7",
    "model.inner_loop.batch_size": "3",
    "model.inner_loop.gradient_clip": "0.5",
    "model.inner_loop.weight_decay": "0.5",
    "model.inner_loop.betas": "[0.5, 0.9]",
    "model.inner_loop.max_length": "77",
    "model.inner_loop.append_eos": "false",
    "model.inner_loop.pad_to": "64",
    "model.grader": "f1",
    "model.reward": "gain",
    "model.rubric": '{"class_path": "seal_lightning.grading.Rubric", "init_args": {"attempts": 7}}',
    "model.query_writer": '{"class_path": "seal_lightning.e_step.own_queries.QueryWriter", "init_args": {"count": 7}}',
    "model.e_step.edits": "7",
    "model.e_step.repeats": "7",
    "model.e_step.passage_only": "true",
    "model.e_step.written": "true",
    "model.e_step.score_by": "rubric",
    "model.e_step.queries": "own",
    "model.e_step.carry_over_queries": "2",
    "model.e_step.racing": "{}",
    "model.evaluation.edits": "7",
    "model.evaluation.repeats": "7",
    "model.evaluation.passage_only": "false",
    "model.evaluation.written": "true",
    "model.evaluation.carry_over_queries": "2",
    "model.m_step.learning_rate": "0.5",
    "model.m_step.epochs": "7",
    "model.m_step.objective": "grpo",
    "model.m_step.batch_size": "3",
    "model.m_step.effective_batch": "8",
    "model.m_step.schedule": "constant",
    "model.m_step.warmup": "0.5",
    "model.m_step.weight_decay": "0.5",
    "model.max_answer_tokens": "9",
    "model.answerer": '{"class_path": "shouting.Shouting"}',
    "model.seed": "7",
    "data": '{"class_path": "seal_lightning.data.SEALDataModule", "init_args": {"contexts_per_unit": 3}}',
    "filter": '{"class_path": "seal_lightning.callbacks.ReSTEMFilter", "init_args": {"k": 2}}',
    "checkpoint.monitor": "val/base",
    "checkpoint.mode": "min",
    "checkpoint.include_untrained": "true",  # the debug configuration says false
}
# How the work is batched and shared out: it may change, and the run writes down from which round on.
NOTED = {
    "trainer.devices": "2",
    "trainer.num_nodes": "2",
    "model.tuning.gradient_checkpointing": "true",
    "model.inner_loop.max_adapters": "3",
    "model.inner_loop.max_tokens": "512",
    "model.m_step.max_length": "512",
    "model.answer_batch": "3",
}
# Where, how long and with how many words.
FREE = {
    "trainer.max_epochs": "9",
    "trainer.min_epochs": "1",
    "trainer.max_steps": "900",
    "trainer.min_steps": "1",
    "trainer.max_time": "00:01:00:00",
    "trainer.default_root_dir": None,
    "trainer.give_up_after": "100",
    "trainer.logger": "false",
    "trainer.log_every_n_steps": "3",
    "trainer.executor": '{"class_path": "seal_lightning.fit.executors.LocalExecutor"}',
    "trainer.allow_other_versions": "true",
    "trainer.inference_mode": "true",
    "trainer.num_sanity_val_steps": "0",
    "trainer.val_check_interval": "1.0",  # the only value that a fit may have
    "trainer.enable_model_summary": "true",
    "trainer.accelerator": "cpu",
    "trainer.strategy": "ddp",
    "trainer.callbacks": '[{"class_path": "lightning.pytorch.callbacks.LearningRateMonitor"}]',
    "trainer.limit_test_batches": "3",
    "trainer.limit_predict_batches": "3",
    "trainer.enable_checkpointing": "true",
    "trainer.enable_progress_bar": None,  # not without the progress of the E-step
    "trainer.enable_rollout_table": "false",
    "trainer.enable_checkpoint_selection": "true",
    "trainer.enable_trackers": "false",
    "trainer.benchmark": "true",
    "trainer.profiler": "simple",
    "trainer.detect_anomaly": "true",
    "trainer.barebones": "false",
    "trainer.plugins": "null",
    "trainer.sync_batchnorm": "true",
    "trainer.reload_dataloaders_every_n_epochs": "1",
    "trainer.enable_autolog_hparams": "false",
    "trainer.model_registry": "null",
    "model.source.trust_remote_code": "true",
    "model.evaluation.score_by": "queries",  # the only value that an evaluation may have, as in the next two
    "model.evaluation.queries": "data",
    "model.evaluation.racing": "null",
    "model.predict": "answers",
    "log_level": "error",
    "push_to_hub": None,  # not without a token
    "hub_model_id": None,
    "hub_private_repo": "false",
    "hub_revision": None,  # not without an upload
    "checkpoint.merged": "true",
    "checkpoint.every_n_steps": "3",
    "table.rows": "3",
    "table.max_chars": "30",
    "trackers.tables": "false",
    "trackers.artifacts": "false",
    "trackers.best": "3",
    "trackers.max_rows": "30",
    "progress.bars": "false",
    "progress.every_seconds": "3",
    "ckpt_path": "last",
}
# What an option needs beside it.
WITH = {"model.e_step.score_by": ["--model.e_step.repeats", "1"]}
# What the groups are where nobody says otherwise, of whose options each is classified.
OURS = {"checkpoint": CheckpointSelection, "table": RolloutTable, "progress": EStepProgress, "trackers": Trackers}
NO_SETTINGS = {"help", "config", "print_config"}
# By the base model's weights and tokenizer, which these would load; tests/models/test_loading.py shows that
# those tell them.
BY_WEIGHTS = {"revision", "quantization", "gguf_file", "date", "template_args"}


SHOUTING = """\
from seal_lightning.sampling import LocalAnswerer


class Shouting(LocalAnswerer):
    pass
"""


@pytest.fixture
def begun(monkeypatch, tmp_path):
    """A fit up to the moment when its model and data are there: `begun("--model.seed", "7")` is its CLI object."""
    for name in ("PL_GLOBAL_SEED", "PL_SEED_WORKERS", "CUBLAS_WORKSPACE_CONFIG"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)  # set back at the end, whatever sets it
    (tmp_path / "shouting.py").write_text(SHOUTING)
    monkeypatch.syspath_prepend(tmp_path)
    made = []
    monkeypatch.setattr(command_line.SEALCLI, "run", lambda cli: made.append(cli))

    def of(*args, load=False):
        args = ["fit", "--config", "configs/debug/random.yaml", "--trainer.default_root_dir", str(tmp_path), *args]
        command_line.run_command(args)
        cli = made.pop()
        cli.trainer.datamodule = cli.datamodule
        cli.datamodule.setup("fit")
        if load:
            cli.model.configure_model()
        return cli

    yield of
    torch.use_deterministic_algorithms(False)
    torch.autograd.set_detect_anomaly(False)
    command_line.set_log_level("warning")


def stamp_of(cli):
    return json.loads(json.dumps(fit_stamp(cli.trainer, cli.model)))


def options_of_fit(begun):
    """The names of all options that take a value of their own."""
    actions = begun()._subcommand_parsers["fit"]._actions
    names = {name.removeprefix("--") for action in actions for name in action.option_strings if name.startswith("--")}
    names = {name for name in names if not name.endswith((".help", "+"))}
    names = {name for name in names if not any(other.startswith(f"{name}.") for other in names)} - NO_SETTINGS
    of_groups = {f"{group}.{name}" for group, kind in OURS.items() for name in inspect.signature(kind).parameters}
    return names - OURS.keys() | of_groups


def test_every_option_is_classified(begun):
    assert options_of_fit(begun) == {*STAMPED, *NOTED, *FREE}
    assert not STAMPED.keys() & NOTED.keys() and not FREE.keys() & {*STAMPED, *NOTED}


@pytest.fixture(scope="module")
def without():
    """Stamps without the option that is tried, by what stands beside it."""
    return {}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (name, value)
        for name, value in {**STAMPED, **NOTED, **FREE}.items()
        if value and name.rpartition(".")[2] not in BY_WEIGHTS
    ],
)
def test_an_option_is_in_the_stamp_noted_or_free(begun, without, name, value):
    load, beside = name.startswith("model.source."), WITH.get(name, [])
    try:
        if (key := (*beside, load)) not in without:
            without[key] = stamp_of(begun(*beside, load=load))
        before, after = without[key], stamp_of(begun(f"--{name}", value, *beside, load=load))
    finally:
        logging.getLogger("seal_lightning").setLevel(logging.WARNING)
    changed = changed_keys(before, after)
    assert bool(changed) == (name not in FREE), changed
    assert all(map(is_noted, changed)) == (name not in STAMPED), changed


def test_what_computes_is_named_and_noted(begun, monkeypatch):
    """For the costs in a report, which need the GPU's name; a resume on another one goes on."""
    assert stamp_of(begun())["trainer.device"] == "CPU"
    assert is_noted("trainer.device")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"NVIDIA H100 {device.index}")
    assert device_name(torch.device("cuda", 1)) == "NVIDIA H100 1"
