"""benchmarks/arc.py: which order its table shows, and that its runs are of the configuration that was named."""

import arc
import pytest

SCORES = {
    arc.IN_CONTEXT: [0.0, 0.0, 0.0, 0.0],
    arc.ALONE: [0.5, 0.5, 0.5, 0.0],
    "fixed configuration": [1.0, 1.0, 1.0, 1.0],
    arc.BEFORE: [0.0, 0.5, 0.0, 0.0],
    "after round 1": [0.5, 0.5, 0.5, 0.5],
    "after round 2": [1.0, 1.0, 1.0, 0.5],
}


def test_both_orders_and_the_paired_differences(capsys):
    assert arc.report([SCORES, SCORES], (0, 1))
    printed = capsys.readouterr().out
    assert "| after round 2 | 0.875 | " in printed
    assert "gain after round 2: +75.0 points (" in printed
    assert "demonstrations alone over in-context: +37.5 points (" in printed
    assert "after round 2 over demonstrations alone: +50.0 points (+50.0 to +50.0)" in printed
    assert "order in-context < untrained < trained: yes" in printed
    assert "order in-context < demonstrations alone < trained: yes" in printed


def test_an_interval_that_reaches_0_is_no_order(capsys):
    mixed = {**SCORES, arc.ALONE: [1.0, 1.0, 1.0, 0.0]}  # a puzzle gains and none loses: +12.5 points, from 0
    assert arc.report([mixed, mixed], (0, 1))
    printed = capsys.readouterr().out
    assert "after round 2 over demonstrations alone: +12.5 points (+0.0 to " in printed
    assert "order in-context < demonstrations alone < trained: NO" in printed


def test_a_gain_below_20_points_is_none():
    assert not arc.report([{**SCORES, arc.BEFORE: [0.7] * 4}], (0,))


@pytest.mark.parametrize("named", [(), ("--config", "configs/arc/debug.yaml")])
def test_the_configuration_that_is_named_is_run(monkeypatch, tmp_path, named):
    asked = {}

    def sweep(folder, seeds, *options, config, seeded, jobs):
        asked.update(folder=folder, config=config, options=options)
        raise KeyboardInterrupt

    monkeypatch.setattr(arc, "sweep", sweep)
    monkeypatch.setattr("sys.argv", ["arc.py", "--folder", str(tmp_path), *named, "--model.e_step.edits", "2"])
    with pytest.raises(KeyboardInterrupt):
        arc.main()
    expected = arc.Path(named[1]) if named else arc.CONFIG
    assert asked == {"folder": tmp_path, "config": expected, "options": ("--model.e_step.edits", "2")}
