"""`benchmarks/round_costs.py`: the arithmetic of a round, the published table, and its mistakes."""

import pytest
from round_costs import Edits, hours_of, main

from seal_lightning.endpoints.prices import find_price


def cells(out):
    """The rows of the table that was printed, without the header."""
    lines = [line for line in out.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_the_papers_round():
    """750 adapters of 30 to 45 s are 6.25 to 9.4 hours of one device; an M-step of 6 minutes takes two of them 0.2."""
    assert hours_of(750, 30, 0, 1) == 6.25 and hours_of(750, 45, 0, 2) == 9.375
    assert hours_of(750, 30, 6, 2) == pytest.approx(6.45)


def test_another_models_edits():
    price = find_price({"m": {"input": 2, "output": 8, "batch": 0.5}}, "m")
    assert float(Edits(250, 200, 300).dollars(price)) == 250 * (200 * 2 + 300 * 8) / 1e6 / 2


def test_a_round_of_ones_own(capsys):
    main(["--seconds", "36", "--gpu", "H100", "--devices", "2", "--m_step", "15", "--contexts", "20", "--edits", "4"])
    (row,) = cells(capsys.readouterr().out)
    assert row[:5] == ["240", "2.9", "1.45", "7.80", "80"]  # 2.4 h of adapters, 0.5 h of the M-step, at 2.69 an hour


def test_cpu_hours_have_no_dollars(capsys):
    main(["--seconds", "36", "--m_step", "0"])
    assert cells(capsys.readouterr().out)[0][:5] == ["750", "7.5", "7.5", "–", "250"]


def test_the_published_table(capsys):
    main([])
    rows = {(row[0], row[5]): row for row in cells(capsys.readouterr().out)}
    assert rows["Qwen2.5-7B", "paper"][4:9] == ["+7.3", "paper", "12 (H100)", "32.28", "0.32"]
    assert rows["Qwen2.5-3B", "Waterloo"][4:8] == ["+7.6", "Waterloo", "6 or 2 (L40)", "4.14 or 1.38"]
    assert rows["Qwen3-4B", "Waterloo"][6:8] == ["–", "–"]


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--seconds", "1", "--gpu", "GH200"], "round_costs.py: configs/gpu_prices.yaml: no price for GH200, only for"),
        (["--gpu_prices", "none.yaml"], "round_costs.py: gpu_prices=none.yaml: expected a file, got nothing there"),
        (["--seconds", "0"], "--seconds must be above 0"),
        (["--contexts", "0"], "--contexts must be at least 1, got 0"),
    ],
)
def test_mistakes(capsys, args, said):
    with pytest.raises(SystemExit) as end:
        main(args)
    assert end.value.code == 2 and said in capsys.readouterr().err
