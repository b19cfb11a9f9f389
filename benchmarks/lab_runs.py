"""A tested fit and adapters in the lab, for tests of cards and uploads: the fixture `lab_runs` makes them once."""

import json
from pathlib import Path

from seal_lightning.cli import main
from seal_lightning.lab import LabPassages

FIT = """\
trainer: {max_epochs: 1, accelerator: cpu, devices: 1, logger: false}
model:
  source: {name: lab}
  tuning: {rank: 2, alpha: 4}
  sampler: {class_path: seal_lightning.sampling.LocalSampler, init_args: {temperature: 0, max_new_tokens: 24}}
  inner_loop: {rank: 4, alpha: 8, target_modules: all-linear, learning_rate: 2.5e-3, epochs: 1, max_adapters: 4}
  grader: exact_match
  max_answer_tokens: 2
  e_step: {edits: 1}
data: {class_path: seal_lightning.lab.LabDataModule, init_args: {passages: 2, held_out: 2, contexts_per_unit: 2}}
checkpoint: {merged: true, include_untrained: false}  # one round need not be better
filter: {class_path: seal_lightning.callbacks.ReSTEMFilter, init_args: {above: null}}
"""
ADAPT = """\
model:
  source: {name: lab}
  inner_loop: {rank: 4, alpha: 8, target_modules: all-linear, learning_rate: 2.5e-3, epochs: 4, max_adapters: 2}
  grader: exact_match
  max_answer_tokens: 2
together: {rank: 4, alpha: 8, target_modules: all-linear, learning_rate: 2.5e-3, epochs: 4, batch_size: 4}
learn: passage
merged: true
"""


def fill(folder: Path) -> None:
    (folder / "fit.yaml").write_text(FIT)
    (folder / "adapt.yaml").write_text(ADAPT)
    rows = [
        {
            "id": f"town-{place}",
            "title": context.title,
            "passage": context.passage,
            "queries": [{"question": query.question, "answers": query.golds} for query in context.queries],
        }
        for place, context in enumerate(LabPassages("test", count=2).read())
    ]
    (folder / "documents.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = ["--trainer.default_root_dir", str(folder / "run")]
    assert main(["fit", "--config", str(folder / "fit.yaml"), *run]) == 0
    assert main(["test", "--config", str(folder / "run" / "config.yaml"), "--ckpt_path", "best"]) == 0
    output = ["--output", str(folder / "adapted")]
    assert main(["adapt", str(folder / "documents.jsonl"), "--config", str(folder / "adapt.yaml"), *output]) == 0
