"""What SEAL does for a language model, as a study: every way of learning a passage, on the same held-out contexts.

    python benchmarks/study.py --config configs/study/smollm2.yaml --train TRAIN.json --evaluate EVAL.json --out FOLDER
                               [--model FOLDER] [--seeds 3] [--first-seed N] [--objectives sft distill] [--jobs N]
                               [--teacher EDITS.jsonl] [--generator CONFIG] [--parts own rules ...] [--small]
                               [--policy FOLDER] [-- OPTION ...]

Rows: the model alone (base), the passage alone, the model's own edits before training and after each round of SEAL,
edits that rules write, an ensemble of four kinds of edits learnt together, a teacher's edits from a file, and a
generator. Each part is a `seal sweep` or `seal validate` below FOLDER, so a stopped study goes on where it was with the
same command, and finished parts are only read; what they print goes to FOLDER/PART.log, and a line a minute tells how
far they are.

All answers are graded by several graders side by side, since small models recite. FOLDER gets study.md (tables, and in
words which differences are more than noise), study.json and study.svg. Intervals are 95 % bootstrap intervals over
contexts, each the mean of its seeds and paired where rows are compared; what another seed gives stands beside them.

--train and --evaluate are any data that `seal fit` reads. --small takes 12 training contexts x 3 edits and 24 contexts
for evaluation, and one seed. --policy measures a policy that an earlier study (or `seal fit`) left, without training:
a folder `policy/`, on contexts that it has not seen. Options after `--` go to every `seal fit`.
"""

from __future__ import annotations

import argparse
import json
import logging
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from seal_lightning.files.saving import save_text

HERE = Path(__file__).resolve().parent
CONFIGS = HERE.parent / "configs" / "study"
PARTS = ("rules", "own", "ensemble", "teacher", "generator")
SMALL = ("--data.limit_train", "12", "--model.e_step.edits", "3", "--data.limit_validation", "24")
PAUSE = 60  # seconds between two lines about a part
JOINED = "ensemble.jsonl"


@dataclass(frozen=True)
class Part:
    """Some rows of the study for one objective of the inner loop, in a folder of its own with a run for each seed.

    Attributes:
        name: One of PARTS.
        objective: Towards what adapters are trained; "" where there is no inner loop.
        configs: Beside the study's own, or in its place for a generator.
        trains: Whether it trains a policy or a generator, or only measures.
        options: Of `seal fit` or `seal validate`.
    """

    name: str
    objective: str
    configs: tuple[Path, ...]
    trains: bool
    options: tuple[str, ...] = ()

    @property
    def folder(self) -> str:
        return f"{self.name}-{self.objective}" if self.objective else self.name


def parts_of(options: argparse.Namespace) -> Iterator[Part]:
    """The parts in the order in which they are run; those that need a file which is not given are left out."""
    wanted = options.parts or PARTS
    for objective in options.objectives:
        for name in PARTS[:-1]:
            if name not in wanted or (name == "teacher" and not options.teacher):
                continue
            towards = ("--model.inner_loop.objective", objective)
            if name == "own":
                # passages alone are learnt once, not in every round: in the part `rules`, if there is one
                once = ("--model.evaluation.passage_only", "false") if "rules" in wanted else ()
                yield Part(name, objective, (options.config,), not options.policy, (*towards, *once))
            elif name == "rules":
                yield Part(name, objective, (options.config, CONFIGS / "rules.yaml"), False, towards)
            else:
                file = options.teacher if name == "teacher" else options.out / "ensemble" / JOINED
                path = ("--model.evaluation_sampler.init_args.path", str(file))
                yield Part(name, objective, (options.config, CONFIGS / "imported.yaml"), False, (*towards, *path))
    if options.generator and "generator" in wanted:
        yield Part("generator", "", (options.generator,), True)


def common(options: argparse.Namespace) -> list[str]:
    """The options that every command of the study has."""
    model = options.policy or options.model
    data = ["--data.train", str(options.train), "--data.validation", str(options.evaluate)]
    return [*data, *(["--model.source.name", model] if model else []), *(SMALL if options.small else ()), *options.rest]


def configured(configs: Sequence[Path]) -> list[str]:
    return [word for config in configs for word in ("--config", str(config))]


def run_part(part: Part, options: argparse.Namespace) -> None:
    """Run a part until it is done; what was finished before is kept."""
    folder = options.out / part.folder
    seeds = [options.first_seed + number for number in range(options.seeds)]
    if part.name == "ensemble":
        write_ensemble(options)
    words = [*configured(part.configs), *part.options, *common(options)]
    if part.trains:
        listed = f"[{','.join(map(str, seeds))}]"
        sweep = ["sweep", *words, "--seeds", listed, "--output", str(folder), "--jobs", str(options.jobs)]
        follow(sweep, options.out / f"{part.folder}.log", folder, part.folder)
        return
    for seed in seeds:
        run = folder / f"seed={seed}"
        if not (run / "validation.json").is_file():
            validate = ["validate", *words, "--model.seed", str(seed), "--trainer.default_root_dir", str(run)]
            follow(validate, options.out / f"{part.folder}.log", run, f"{part.folder}, seed {seed}")


def write_ensemble(options: argparse.Namespace) -> None:
    """Sample one edit of each kind from the model, and join those of a context; not done again where that is there."""
    folder = options.out / "ensemble"
    if (folder / JOINED).is_file():
        return
    asked = [word.replace("data.validation", "data.predict") for word in common(options)]
    asked = [word.replace("data.limit_validation", "data.limit_predict") for word in asked]
    predict = ["predict", *configured([options.config, CONFIGS / "ensemble.yaml"]), *asked]
    predict += ["--trainer.default_root_dir", str(folder), "--model.seed", str(options.first_seed)]
    follow(predict, options.out / "ensemble.log", folder, "ensemble, writing")
    rows = [json.loads(line) for line in (folder / "edits.jsonl").read_text(encoding="utf-8").splitlines()]
    texts: dict[str, list[str]] = {}
    for row in rows:
        texts.setdefault(row["context_id"], []).append(row["text"])
    joined = [json.dumps({"context_id": name, "text": "\n".join(those)}) for name, those in texts.items()]
    save_text(folder / JOINED, "\n".join(joined) + "\n")  # whole or not at all: where it is, it is not written again


def follow(command: Sequence[str], log: Path, runs: Path, name: str) -> None:
    """Run a `seal` command with its output in a file; a line a minute says what it said last. Ends with its failure.

    Args:
        command: The command and its options.
        log: The file.
        runs: Where the runs that it starts have a `fit.log` of their own.
        name: What to call it.
    """
    began = time.monotonic()
    with log.open("a", encoding="utf-8") as file:
        process = subprocess.Popen([sys.executable, "-m", "seal_lightning", *command], stdout=file, stderr=file)
        try:
            told = ""
            while process.poll() is None:
                try:
                    process.wait(PAUSE)
                except subprocess.TimeoutExpired:
                    if (said := newest_line([log, *runs.glob("seed=*/fit.log")])) != told:
                        tell(f"{name}: {said}")
                        told = said
        finally:
            if process.poll() is None:  # the study itself is stopped
                process.terminate()
                process.wait()
    if process.returncode:
        sys.exit(f"{name}: ended with code {process.returncode}; {newest_line([log])} (all of it: {log})")
    tell(f"{name}: done, {(time.monotonic() - began) / 60:.1f} min")


def tell(text: str) -> None:
    print(f"{time.strftime('%H:%M')} {text}", file=sys.stderr, flush=True)


def newest_line(logs: Sequence[Path]) -> str:
    """The last line of the file that was written to last, behind the name of its run."""
    log = max(logs, key=lambda path: path.stat().st_mtime_ns)
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return (f"{log.parent.name}, " if log.name == "fit.log" else "") + (lines[-1] if lines else "")


def arguments() -> argparse.Namespace:
    """The command line, checked."""
    args, rest = sys.argv[1:], []
    if "--" in args:
        args, rest = args[: args.index("--")], args[args.index("--") + 1 :]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("--evaluate", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", default="", help="in place of the configuration's")
    parser.add_argument("--policy", default="", help="a trained policy: measured only, and no further round")
    parser.add_argument("--teacher", type=Path, help="edits as `seal predict` writes them")
    parser.add_argument("--generator", type=Path, help="a configuration of `seal fit` that trains a generator")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--objectives", nargs="+", default=["sft"], choices=["sft", "distill"])
    parser.add_argument("--parts", nargs="+", choices=PARTS)
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, one thread each")
    parser.add_argument("--small", action="store_true")
    options = parser.parse_args(args)
    options.rest = rest
    for name in ("config", "train", "evaluate", "teacher", "generator"):
        path = getattr(options, name)
        if path is not None and not path.exists():
            parser.error(f"--{name} {path}: expected a file, found none")
    return options


def main() -> None:
    options = arguments()
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # through `finally`: the runs end, too
    logging.basicConfig(level=logging.ERROR, format="%(message)s")  # of libraries that are imported from here on
    tables = import_module("study_tables")
    options.out.mkdir(parents=True, exist_ok=True)
    parts = list(parts_of(options))
    tell(f"{len(parts)} parts in {options.out}: {', '.join(part.folder for part in parts)}")
    rows: list[object] = []
    for part in parts:
        run_part(part, options)
        rows += tables.read_rows(part.name, part.objective, sorted((options.out / part.folder).glob("seed=*")))
        study = tables.Study(rows=rows, command=shlex.join(["python", *sys.argv]))
        tables.save_study(options.out, study)  # after every part: a study of days can be read before its end
    print((options.out / "study.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
