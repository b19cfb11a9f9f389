"""Empty sections of a configuration, and configurations that are made to hang, in every command and place."""

from pathlib import Path

import pytest
import yaml

from seal_lightning.errors import ConfigError, DataError
from seal_lightning.options.config_files import read_config
from seal_lightning.options.parser import Parser
from seal_lightning.report.read import read
from seal_lightning.tasks import EditKind

BOMB = "".join(f"a{n}: &a{n} [{','.join([f'*a{n - 1}' if n else 'x'] * 9)}]\n" for n in range(10))
TOO_MANY = "not valid YAML or JSON (more than 200,000 values, counting what aliases repeat each time); repair it"


@pytest.fixture
def parser():
    """Of a small command with a section, an option that takes null and one of a class."""
    parser = Parser("grade")
    parser.add_argument("--config", action="config")
    parser.add_argument("--inner.rank", type=int, default=4)
    parser.add_argument("--inner.alpha", type=float | None, default=8.0)
    parser.add_argument("--names", type=list[str], default=["a"])
    parser.add_argument("--kind", type=EditKind | None, default=None)
    return parser


@pytest.fixture
def file(tmp_path):
    def write(text, name="overlay.yaml"):
        (tmp_path / name).write_text(text)
        return str(tmp_path / name)

    return write


@pytest.mark.parametrize(
    "overlay",
    ["inner:", "inner:\n  # rank: 2\n", "inner: {}", "inner: null", "inner: ~", "names:\n", "kind:\n",
     "inner:\n  rank:\n", "inner: {rank: , alpha: }",
     "inner:\nnames:\nkind:\n", '{"inner": null}'],
)  # fmt: skip
def test_an_empty_section_changes_nothing(parser, file, overlay):
    base = file("inner: {rank: 2, alpha: 3}\nnames: [b]\nkind: {instruction: 'Read {passage}'}\n", "base.yaml")
    with_overlay = parser.settings(["--config", base, "--config", file(overlay)]).as_dict()
    without = parser.settings(["--config", base]).as_dict()
    del with_overlay["config"], without["config"]
    assert with_overlay == without
    assert without["inner"] == {"rank": 2, "alpha": 3.0}


def test_a_null_that_is_written_out_stays(parser, file):
    base = file("inner: {rank: 2, alpha: 3}\nkind: {instruction: 'Read {passage}'}\n", "base.yaml")
    settings = parser.settings(["--config", base, "--config", file("inner: {alpha: null}\nkind: null\n")])
    assert settings.inner.as_dict() == {"rank": 2, "alpha": None}
    assert settings.kind is None


def test_a_section_that_is_null_is_told(parser, file, caplog):
    parser.settings(["--config", file("inner: null")])
    assert caplog.messages == ["overlay.yaml: the section inner is null, which changes nothing"]


def test_what_cannot_be_null_is_refused(parser, file):
    path = file("inner: {rank: null}")
    with pytest.raises(ConfigError, match=r"inner\.rank in .*overlay\.yaml: expected a value, got null; leave it out"):
        parser.settings(["--config", path])
    with pytest.raises(ConfigError, match=r"inner in overlay\.yaml: expected a mapping, got a list"):
        parser.settings(["--config", file("inner: []")])


def test_a_bomb_is_one_line_wherever_it_stands(parser, file):
    bomb = file(BOMB, "bomb.yaml")
    with pytest.raises(ConfigError) as caught:
        parser.settings(["--config", bomb])
    assert str(caught.value) == f"--config {bomb}, line 6: {TOO_MANY}"
    for args in (
        ["--kind", bomb],
        [f"--kind={bomb}"],
        ["--config", file(f"kind: {bomb}")],
        ["--config", file("kind: bomb.yaml")],
    ):
        with pytest.raises(ConfigError) as caught:
            parser.settings(args)
        assert str(caught.value) == f"{bomb}, line 6: {TOO_MANY}"
    for args in ([f"--kind={BOMB}"], [f"--names={BOMB}"]):
        with pytest.raises(ConfigError) as caught:
            parser.settings(args)
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 1000


def test_a_value_that_looks_like_nested_yaml_may_be_a_text(parser, file):
    settings = parser.settings(["--names", '["[[[[[["]'])
    assert settings.names == ["[[[[[["]


def test_a_pipe_and_a_folder_are_no_config_file(file, tmp_path):
    with pytest.raises(ConfigError, match="--config /dev/zero: expected a file, got a device: save it as a file"):
        read_config("--config", "/dev/zero")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_config("--config", str(tmp_path))


def test_a_key_that_stands_twice_is_refused(file):
    path = file("a:\n  b: 1\n  b: 2\n")
    with pytest.raises(ConfigError, match=r"overlay\.yaml, line 3: b appears twice; merge the two"):
        read_config("--config", path)


def test_the_configuration_of_a_run_may_be_a_bomb(tmp_path):
    (tmp_path / "journal").mkdir()
    (tmp_path / "config.yaml").write_text(BOMB)
    with pytest.raises(DataError, match=r"config\.yaml, line 6: expected YAML, got more than 200,000 values"):
        read(str(tmp_path))


def test_all_shipped_configurations_are_within_the_bounds():
    paths = sorted((Path(__file__).resolve().parents[2] / "configs").rglob("*.yaml"))
    assert len(paths) > 10
    for path in paths:
        assert read_config("--config", str(path)) == yaml.safe_load(path.read_text(encoding="utf-8"))
