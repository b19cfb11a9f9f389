"""The data module: what each command needs, units, limits, leaks, and its configuration from YAML."""

import json
from types import SimpleNamespace

import jsonargparse
import pytest
import yaml

from seal_lightning.data import Reader, SEALDataModule, SealJson, units
from seal_lightning.errors import ConfigError, DataError
from seal_lightning.types import Context, Query


def contexts(*names, queries=True):
    asked = (Query("A?", ("x",)),) if queries else ()
    return [Context(id=name, title=name.upper(), passage=f"About {name}.", queries=asked) for name in names]


class Given(Reader):
    """A user's reader."""

    def __init__(self, given: list | None = None) -> None:
        self.given = given
        self.times = 0

    def read(self):
        self.times += 1
        return self.given or []


def module(**options):
    return SEALDataModule(**{name: Given(o) if isinstance(o, list) else o for name, o in options.items()})


def test_units():
    assert units([], 2) == []
    assert units("abcde", 2) == [("a", "b"), ("c", "d"), ("e",)]
    assert units(contexts("a"), 4) == [tuple(contexts("a"))]


def test_each_loader_gives_the_numbers_of_its_units():
    data = module(
        validation=contexts("a", "b", "c"),
        test=contexts("d"),
        predict=contexts("e", queries=False),
        contexts_per_unit=2,
    )
    data.setup(None)
    assert list(data.val_dataloader()) == [0, 1]
    assert list(data.test_dataloader()) == [0]
    assert list(data.predict_dataloader()) == [0]


def test_a_split_that_is_not_set_gives_an_empty_loader():
    data = module(train=contexts("a"))
    data.setup("fit")
    assert (len(data.val_dataloader()), list(data.val_dataloader()), data.validation_contexts) == (0, [], [])


def test_training_has_no_loader():
    assert "train_dataloader" not in vars(SEALDataModule)


@pytest.mark.parametrize(
    ("stage", "name"), [("fit", "train"), ("validate", "validation"), ("test", "test"), ("predict", "predict")]
)
def test_a_command_needs_its_split(stage, name):
    with pytest.raises(ConfigError, match=rf"^data\.{name} is not set: {stage} needs it"):
        module().setup(stage)
    with pytest.raises(DataError, match=rf"^data\.{name}=Given: expected at least one context, got none"):
        module(**{name: Given()}).setup(stage)


def test_a_command_reads_only_what_it_needs_and_only_once():
    data = module(train=contexts("a"), validation=contexts("b"), test=contexts("c"), predict=contexts("d"))
    data.setup("predict")
    assert [source.times for source in data.sources.values()] == [0, 0, 0, 1]
    for stage in ("fit", "fit", "validate", "test"):
        data.setup(stage)
    assert [source.times for source in data.sources.values()] == [1, 1, 1, 1]


@pytest.mark.parametrize(("stage", "name"), [("fit", "train"), ("validate", "validation"), ("test", "test")])
def test_contexts_without_queries(tmp_path, stage, name):
    path = tmp_path / "a.jsonl"
    path.write_text('{"passage": "P", "queries": [{"question": "A?", "answer": "x"}]}\n{"title": "T", "passage": "Q"}')
    with pytest.raises(DataError) as caught:
        module(**{name: str(path)}).setup(stage)
    assert str(caught.value) == (
        f"data.{name}={path}: expected queries for every context, got none for 1 of 2 (first: 'T'):"
        " add queries, or remove these contexts"
    )
    module(predict=str(path)).setup("predict")


def test_training_contexts_need_no_queries_where_the_e_step_asks_none():
    data = module(train=contexts("a", queries=False))
    data.trainer = SimpleNamespace(
        lightning_module=SimpleNamespace(e_step=SimpleNamespace(plan=SimpleNamespace(needs_queries=False)))
    )
    data.setup("fit")
    assert len(data.train_contexts) == 1


@pytest.mark.parametrize(("stage", "name"), [("fit", "train"), ("validate", "validation"), ("test", "test")])
def test_queries_that_nobody_knows_the_answer_to(stage, name):
    asked = [*contexts("a"), Context("b", "B", "Q", (Query("B?", ("y",)), Query("C?", ())))]
    with pytest.raises(DataError) as caught:
        module(**{name: asked}).setup(stage)
    assert str(caught.value) == (
        f"data.{name}=Given: expected an answer to every query, got queries without one for 1 of 2 contexts "
        "(first: 'B'): add the answers (of ARC: the file of solutions), or have them answered by seal predict "
        "--model.predict answers"
    )
    module(predict=asked).setup("predict")


@pytest.mark.parametrize("held_out", ["validation", "test"])
def test_a_leak_is_refused_unless_it_is_allowed(held_out):
    leaked = [Context(id="other-id", title=" A", passage="About\na. ", queries=(Query("B?", ("y",)),))]
    splits = {"train": contexts("a", "b"), held_out: contexts("c") + leaked}
    words = rf"^data\.{held_out} must not share contexts with data\.train, but 1 of 2 are in both \(first: ' A'\)"
    with pytest.raises(DataError, match=words):
        module(**splits).setup("fit")
    module(**splits, allow_overlap=True).setup("fit")
    module(**{**splits, "limit_" + held_out: 1}).setup("fit")  # what a limit leaves out is no leak


def test_two_files_may_number_their_contexts_alike():
    other = Context(id="a", title="Z", passage="About z.", queries=(Query("Z?", ("z",)),))
    data = module(train=contexts("a", "b"), validation=[other])
    data.setup("fit")
    assert data.validation_contexts == [other]


def test_limits_take_the_first_contexts_and_a_seed_shuffles_before():
    names = "abcdefgh"
    data = module(train=contexts(*names), limit_train=3)
    data.setup("fit")
    assert [context.id for context in data.train_contexts] == ["a", "b", "c"]
    orders = []
    for seed in (0, 0, 1):
        given = contexts(*names)
        data = module(train=given, shuffle_seed=seed)
        data.setup("fit")
        orders.append("".join(context.id for context in data.train_contexts))
        assert given == contexts(*names)  # the reader's own list is left alone
    assert orders[0] == orders[1] != orders[2]
    assert sorted(orders[0]) == sorted(orders[2]) == list(names)
    data = module(train=contexts(*names), shuffle_seed=0, limit_train=3)
    data.setup("fit")
    assert "".join(context.id for context in data.train_contexts) == orders[0][:3]


@pytest.mark.parametrize(
    "option", ["limit_train", "limit_validation", "limit_test", "limit_predict", "contexts_per_unit"]
)
@pytest.mark.parametrize("value", [0, -1, True, 1.5])
def test_counts_that_cannot_work(option, value):
    with pytest.raises(ConfigError, match=rf"^data\.{option} must be a whole number of at least 1, got {value}"):
        module(**{option: value})


def test_options_that_cannot_work():
    with pytest.raises(ConfigError, match=r"^data\.shuffle_seed must be a whole number or null, got 'x'"):
        module(shuffle_seed="x")
    with pytest.raises(ConfigError, match=r"^data\.train must be a path or a reader, got ''"):
        module(train="").setup("fit")


def from_yaml(text):
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(SEALDataModule, "data")
    config = parser.parse_string(text)
    assert parser.parse_string(parser.dump(config)) == config  # what a run saves as its configuration loads again
    instantiate = getattr(parser, "instantiate", None) or parser.instantiate_classes
    return instantiate(config).data


def test_from_yaml(tmp_path):
    path = tmp_path / "a.json"
    row = {"title": "T", "context": "C", "questions": [{"question": "A?", "answer": "x"}]}
    path.write_text(json.dumps([row]))
    plain = from_yaml(yaml.safe_dump({"data": {"train": str(path), "contexts_per_unit": 2}}))
    assert (plain.sources["train"], plain.contexts_per_unit) == (str(path), 2)
    by_class = {"class_path": "seal_lightning.data.SealJson", "init_args": {"path": str(path)}}
    full = from_yaml(yaml.safe_dump({"data": {"train": by_class, "limit_train": 1}}))
    assert isinstance(full.sources["train"], SealJson)
    for data in (plain, full):
        data.setup("fit")
        assert [context.title for context in data.train_contexts] == ["T"]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("Jsonl", {"path": "a"}),
        ("Squad", {"path_or_name": "rajpurkar/squad", "split": "validation"}),
        ("Squad", {"path_or_name": "a.json", "version_2": "auto"}),
        ("Squad", {"path_or_name": "a.json", "version_2": False}),
        ("PassagePair", {"passages": "a", "questions": "b", "edits": "c"}),
        ("TextFolder", {"path": "a", "pattern": "*.md", "recursive": False}),
    ],
)
def test_every_reader_from_yaml(name, options):
    by_class = {"class_path": f"seal_lightning.data.{name}", "init_args": options}
    assert type(from_yaml(yaml.safe_dump({"data": {"test": by_class}})).sources["test"]).__name__ == name


def test_published_contexts(shared):
    folder = shared / "data" / "squad"
    data = module(train=str(folder / "train.json"), validation=str(folder / "val.json"), limit_train=50)
    data.setup("fit")
    assert (len(data.train_contexts), len(data.validation_contexts), len(data.val_dataloader())) == (50, 100, 25)
