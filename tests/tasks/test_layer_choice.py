"""How layers are named, by models that write as they like, and which layers of a model that is."""

import pytest

from seal_lightning.models.layers import find_targets
from seal_lightning.models.random_models import build_tiny
from seal_lightning.tasks.layer_choice import chosen_layers, depth_of, read_choice

LLAMA = [
    f"model.layers.{depth}.{part}"
    for depth in range(6)
    for part in ("self_attn.q_proj", "self_attn.v_proj", "mlp.up_proj")
]
GEMMA = [name.replace("model.layers", "model.language_model.layers") for name in LLAMA]
GPT2 = [f"transformer.h.{depth}.{part}" for depth in range(4) for part in ("attn.c_attn", "attn.c_proj", "mlp.c_proj")]


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("0-3", "0-3"),
        ([0, 1, 2], "0, 1, 2"),
        ("[0, 1, 'q_proj']", "0, 1, q_proj"),  # as a list comes out of a self-edit's JSON
        ([2, 10, 1, 1], "1, 2, 10"),
        (3, "3"),
        (3.0, "3"),
        (-1, "-1"),
        ("layers 0–3", "0-3"),
        ("7..5", "5-7"),
        ("4 through 6", "4-6"),
        ("layer_3, L4", "3, 4"),
        ("first half", "first half"),
        ("the second-half", "last half"),
        ("last two layers", "last 2"),
        ("the last layer", "last 1"),
        ("early layers", "first third"),
        ("middle", "middle third"),
        ("Attention", "attention"),
        ("self-attention and feed-forward blocks", "attention, mlp"),
        ("MLP of the first third", "first third, mlp"),
        ("Layers 2 to 4, attention only", "2-4, attention"),
        (["q_proj", "v_proj"], "q_proj, v_proj"),
        ("all", "all"),
    ],
)
def test_what_is_read(written, read):
    assert read_choice(written) == read
    assert read_choice(read) == read  # one form, whoever wrote it


@pytest.mark.parametrize(
    "written", ["", "none", "the layers", None, True, False, 3.5, float("nan"), 10**4, {"layers": 3}, "123456", [[]]]
)
def test_what_names_no_layers(written):
    assert read_choice(written) is None


def test_a_number_of_any_length_names_no_layer():
    assert read_choice(10**5000) is None and read_choice(-(10**5000)) is None


def test_only_the_sorts_that_are_asked_for_count():
    assert read_choice("0-3, attention", sorts=["depth"]) == "0-3"
    assert read_choice("0-3, attention", sorts=["kinds"]) == "attention"
    assert read_choice("0-3", sorts=["kinds"]) is None and read_choice("0-3", sorts=[]) is None


def depths(choice, names=LLAMA):
    return sorted({depth_of(name) for name in chosen_layers(choice, names)})


@pytest.mark.parametrize(
    ("choice", "chosen"),
    [
        ("0-2", [0, 1, 2]),
        ("4-90", [4, 5]),
        ("0, -1, 99", [0, 5]),
        ("first half", [0, 1, 2]),
        ("middle third", [2, 3]),
        ("last 2", [4, 5]),
        ("last 99", [0, 1, 2, 3, 4, 5]),
        ("first quarter", [0, 1]),
        ("first 1, last third", [0, 4, 5]),
        ("all", [0, 1, 2, 3, 4, 5]),
        ("first 0", []),
        ("40-50", []),
    ],
)
def test_depths(choice, chosen):
    assert depths(choice) == chosen == depths(choice, GEMMA)


def test_halves_are_of_the_depths_with_adapters():
    sparse = [name for name in LLAMA if depth_of(name) in (1, 3, 5)]
    assert depths("first half", sparse) == [1, 3] and depths("3", sparse) == [3] and depths("-1", sparse) == [5]


def test_kinds():
    assert chosen_layers("attention", GPT2) == {name for name in GPT2 if ".attn." in name}
    assert chosen_layers("mlp", GPT2) == {name for name in GPT2 if ".mlp." in name}
    assert chosen_layers("c_proj", GPT2) == {name for name in GPT2 if name.endswith("c_proj")}
    assert chosen_layers("attn.c_proj", GPT2) == {name for name in GPT2 if name.endswith("attn.c_proj")}
    assert chosen_layers("q, up", LLAMA) == {name for name in LLAMA if name.endswith(("q_proj", "up_proj"))}
    assert chosen_layers("1, mlp", LLAMA) == {"model.layers.1.mlp.up_proj"}
    assert chosen_layers("mlp, nonsense", LLAMA) == chosen_layers("mlp", LLAMA)
    assert chosen_layers("nonsense", LLAMA) == chosen_layers("9, mlp", LLAMA) == frozenset()


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox", "gemma", "opt", "bloom", "phi"])
def test_attention_and_mlp_are_all_there_is_in_a_block(family):
    names = [target.name for target in find_targets(build_tiny(family)[0], "all-linear")]
    attention, mlp = chosen_layers("attention", names), chosen_layers("mlp", names)
    assert attention and mlp and not attention & mlp
    assert attention | mlp == {name for name in names if depth_of(name) is not None}
