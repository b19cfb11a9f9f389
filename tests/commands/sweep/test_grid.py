"""The runs of a sweep: what is swept, under which names, and in which order options are given."""

import pytest

from seal_lightning.commands.sweep.grid import plan, read_axis, read_seeds
from seal_lightning.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "key", "values"),
    [
        ("model.inner_loop.rank=2,8", "model.inner_loop.rank", ("2", "8")),
        ("--model.inner_loop.rank=2, 8", "model.inner_loop.rank", ("2", "8")),
        ("a=[1, 2]", "a", ("1", "2")),
        ('a=["x,y", true, null, 0.001]', "a", ("x,y", "true", "null", "0.001")),
        ("a=[1,2],[3]", "a", ("[1,2]", "[3]")),
        ("a=[[1, 2]]", "a", ("[1, 2]",)),
        ('a={"x": 1, "y": 2},{"x": 3}', "a", ('{"x": 1, "y": 2}', '{"x": 3}')),
        ("a='p,q',r", "a", ("p,q", "r")),
        ("a=it's,its", "a", ("it's", "its")),
        ("a='',\"it's\"", "a", ("", "it's")),
        ("a=-1,1e-3", "a", ("-1", "1e-3")),
        ("a=b=c,d", "a", ("b=c", "d")),
        ("seed=4,7", "model.seed", ("4", "7")),
    ],
)
def test_values(text, key, values):
    axis = read_axis(text)
    assert (axis.key, axis.values) == (key, values)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a", "--over a: expected KEY=VALUE,VALUE, such as --over model.inner_loop.rank=2,8"),
        ("a=", "--over a=: expected KEY=VALUE,VALUE, such as --over model.inner_loop.rank=2,8"),
        (
            "a=1,,2",
            "--over a=1,,2: expected values between commas; quote those with commas, brackets or colons in them",
        ),
        ("a=2,1,2", "--over a=2,1,2: 2 appears twice; leave one out"),
        (
            "a=[1,2",
            "--over a=[1,2: expected values between commas; quote those with commas, brackets or colons in them",
        ),
        (
            "a=[a: b: c]",
            "--over a=[a: b: c]: expected values between commas; quote those with commas, brackets or colons",
        ),
    ],
)
def test_values_that_cannot_be_read(text, said):
    with pytest.raises(ConfigError) as error:
        read_axis(text)
    assert str(error.value).startswith(said)


def test_seeds():
    assert (read_seeds("3"), read_seeds("4,7"), read_seeds("[7]")) == ([0, 1, 2], [4, 7], [7])
    for text in ("0", "-1", "x", "1.5", "", "4,x"):
        with pytest.raises(ConfigError, match="expected how many seeds, such as 3, or a list of them, such as 300,301"):
            read_seeds(text)
    with pytest.raises(ConfigError, match="--seeds 1,1: a seed appears twice; leave one out"):
        read_seeds("1,1")


def names(*overs, seeds=(), **options):
    return [run.name for run in plan([read_axis(over) for over in overs], seeds, options=[], **options)]


def test_names_are_short_and_safe():
    assert names("model.inner_loop.rank=2,8", seeds=[0, 3]) == [
        "rank=2_seed=0", "rank=2_seed=3", "rank=8_seed=0", "rank=8_seed=3",
    ]  # fmt: skip
    assert names("model.inner_loop.rank=2", "model.tuning.rank=4") == ["inner_loop.rank=2_tuning.rank=4"]
    assert names("filter=seal_lightning.callbacks.RandomFilter,ReSTEMFilter")[0] == "filter=RandomFilter"
    assert names("filter.class_path=RandomFilter") == ["filter=RandomFilter"]
    assert names("config=configs/a.yaml,b.yaml") == ["config=a", "config=b"]
    assert names("config=one/a.yaml,two/a.yaml") == ["config=one-a.yaml", "config=two-a.yaml"]
    assert names('a=../../x; rm -rf "$HOME"\n') == ["a=x-rm--rf-HOME"]
    assert names(seeds=[1, 2]) == ["seed=1", "seed=2"]
    assert names("seed=4,7") == ["seed=4", "seed=7"]


def test_names_that_would_be_the_same_or_too_long_get_a_digest():
    both = names("a=x y,x-y")
    assert len(set(both)) == 2 and all(name.startswith("a=x-y-") for name in both)
    (name,) = names(f"a={'v' * 300}")
    assert len(name) == 100 and name == names(f"a={'v' * 300}")[0]


def test_what_is_swept_stands_above_config_files_and_below_what_belongs_to_it():
    axes = [read_axis("filter=A,B"), read_axis("config=c.yaml")]
    options = ["--filter.k", "2", "--config", "a.yaml", "--config=b.yaml", "--trainer.max_epochs", "1"]
    assert plan(axes, [5], options=options, seeded=["model.seed", "data.seed"])[1].options == (
        "--config", "a.yaml", "--config=b.yaml", "--config=c.yaml", "--filter=B", "--filter.k", "2",
        "--trainer.max_epochs", "1", "--model.seed=5", "--data.seed=5",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("overs", "seeds", "options", "said"),
    [
        (["a.b=1"], [], ["--a.b", "2"], "--a.b: would take the place of what --over a.b sets; leave one of them out"),
        (["a.b=1"], [], ["--a={}"], "--a: would take the place of what --over a.b sets; leave one of them out"),
        (["a=1", "a=2"], [], [], "--over a: given twice; put all of its values behind one"),
        (
            [],
            [1],
            ["--model.seed", "1"],
            "--model.seed: would take the place of what --seeds sets; leave one of them out",
        ),
        (["seed=1"], [1], [], "--over model.seed: --seeds sets it too; give the seeds there, such as --seeds 300,301"),
        (["a=1"], [], ["--ckpt_path=x"], "--ckpt_path: the sweep goes on with the runs that it finds: leave it out"),
        (
            ["trainer.default_root_dir=a"],
            [],
            [],
            "--over trainer.default_root_dir: the folders of the runs are made by",
        ),
    ],
)
def test_nothing_is_set_twice(overs, seeds, options, said):
    with pytest.raises(ConfigError) as error:
        plan([read_axis(over) for over in overs], seeds, options=options)
    assert str(error.value).startswith(said)
