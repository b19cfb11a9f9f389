"""What rounds cost: hours from the journal, dollars from two tables, and nothing invented where one is unknown."""

from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest

from seal_lightning.cli import main
from seal_lightning.errors import ConfigError
from seal_lightning.report.costs import cost_notes, costs_of, costs_table, read_prices
from seal_lightning.report.gpu_prices import read_gpu_prices
from seal_lightning.report.read import read
from seal_lightning.stamps.run import Change, Record, save_record

SHIPPED = Path(__file__).resolve().parents[2] / "configs" / "gpu_prices.yaml"
H100, L40 = "NVIDIA H100 80GB HBM3", "NVIDIA L40"
METRICS = "epoch,m_step/seconds\n0,1800\n0,\n1,900\n"


@pytest.fixture
def run(tmp_path, runs):
    """A run of two rounds of two contexts, two edits each, on two H100 at first and on an L40 in round 2."""

    def run(*changes, device=H100, ranks=2, metrics=METRICS, **fields):
        edits = [
            runs.scored(0.5, **{"context_id": context, "edit_index": index, "seconds": {"inner loop": 450.0}, **fields})
            for context in ("lamp", "tarn")
            for index in (0, 1)
        ]
        second = [replace(edit, round=1) for edit in edits]
        journals = {"train-000": [edits], "train-001": [second], "validation-002": [second[:1]]}
        folder = runs.write(tmp_path / "run", journals)
        save_record(folder, Record({"trainer.device": device, "trainer.ranks": ranks}, changes))
        (folder / "csv" / "version_0").mkdir(parents=True)
        (folder / "csv" / "version_0" / "metrics.csv").write_text(metrics)
        return folder

    return run


def costs(folder, gpu_prices=None, prices=None):
    return costs_of(read(str(folder)), read_prices(gpu_prices and str(gpu_prices), prices and str(prices)))


def test_hours_are_of_all_devices(run):
    """Four edits of 450 s are half an hour of one device; the M-steps take half an hour of both, then a quarter."""
    rows = costs(run())
    assert [(row.name, row.device, row.hours, row.contexts, row.edits) for row in rows] == [
        ("round 1", H100, 1.5, 2, 4),
        ("round 2", H100, 1.0, 2, 4),
        ("validations and tests", H100, 0.125, 1, 1),
    ]
    assert [row.dollars for row in rows] == [None] * 3


def test_dollars_are_those_of_the_device_of_the_round(run):
    """The run went on with one L40 in round 2: 0.75 hours of it."""
    record = (Change(1, "trainer.device", H100, L40), Change(1, "trainer.ranks", 2, 1))
    rows = costs(run(*record, device=L40, ranks=1), SHIPPED)
    assert [(row.device, row.hours, row.dollars) for row in rows] == [
        (H100, 1.5, Decimal("4.035")),
        (L40, 0.75, Decimal("0.5175")),
        (L40, 0.125, Decimal("0.08625")),
    ]


def test_another_model_is_charged_for_the_prompt_and_text_of_every_edit_once(run, tmp_path):
    """Four edits of 20 and 10 tokens, by batch at half the price, however often each was trained."""
    table = tmp_path / "prices.yaml"
    table.write_text("big: {input: 1000, output: 2000, batch: 0.5}\nsmall: {input: 100, output: 200}\n")
    rows = costs(run(), prices=table)
    assert rows[0].editors == {"big": Decimal("0.08"), "small": Decimal("0.016")}


def test_the_table_and_its_notes(run, tmp_path):
    prices = read_prices(str(SHIPPED), "configs/prices.yaml")
    rows = costs_of(read(str(run())), prices)
    table = costs_table(rows, prices)
    assert table.header == (
        "", "on", "hours", "dollars", "contexts", "edits", "by gpt-4.1, dollars", "by gpt-4.1-mini, dollars",
        "by gpt-4.1-nano, dollars",
    )  # fmt: skip
    assert table.rows[0] == ("round 1", H100, "1.5", "4.04", "2", "4", "0.0002", "< 0.0001", "< 0.0001")
    assert table.rows[-1] == ("together", "", "2.62", "7.06", "", "", "", "", "")
    assert len(cost_notes(rows, prices)) == 3


def test_a_run_on_cpus_has_hours_and_no_dollars_unless_the_table_has_some(run, tmp_path):
    folder = run(device="CPU")
    rows = costs(folder, SHIPPED)
    assert [row.dollars for row in rows] == [None] * 3
    prices = read_prices(str(SHIPPED), None)
    assert "dollars" not in costs_table(rows, prices).header
    assert cost_notes(rows, prices)[-1] == f"No dollars for CPUs: {SHIPPED} has no row CPU."
    own = tmp_path / "own.yaml"
    own.write_text("CPU: 0.5\n")
    assert [row.dollars for row in costs(folder, own)] == [Decimal("0.75"), Decimal("0.5"), Decimal("0.0625")]


def test_a_run_that_does_not_name_its_device_has_no_dollars(run):
    folder = run()
    (folder / "run.json").unlink()
    rows = costs(folder, SHIPPED)
    assert [(row.device, row.dollars) for row in rows] == [("", None)] * 3
    assert rows[0].hours == 1.0  # one rank's M-step: how many there were is not known either
    notes = cost_notes(rows, read_prices(str(SHIPPED), None))
    assert notes[-1] == "No dollars where the run does not name what computed it."


def test_edits_without_tokens_cost_nothing_that_is_known(run, tmp_path):
    prices = read_prices(None, "configs/prices.yaml")
    rows = costs(run(tokens={}), prices="configs/prices.yaml")
    assert rows[0].editors["gpt-4.1"] is None
    assert len(costs_table(rows, prices).header) == 5 and len(cost_notes(rows, prices)) == 1


def test_nothing_measured_no_table(run):
    folder = run(seconds={}, metrics="epoch,m_step/loss\n0,1\n")
    prices = read_prices(str(SHIPPED), None)
    rows = costs(folder, SHIPPED)
    assert (rows, costs_table(rows, prices), cost_notes(rows, prices)) == ([], None, [])


def test_both_pages_have_it(run, capfd):
    folder = run()
    assert (
        main(["report", str(folder), "--gpu_prices", "configs/gpu_prices.yaml", "--prices", "configs/prices.yaml"]) == 0
    )
    page, text = (folder / "report.html").read_text(), (folder / "report.md").read_text()
    assert "| round 1               | NVIDIA H100 80GB HBM3 | 1.5   | 4.04    |" in text
    assert "- Dollars an hour: configs/gpu_prices.yaml.\n" in text
    assert '<th scope="row" class="text">round 1</th><td>NVIDIA H100 80GB HBM3</td><td>1.5</td><td>4.04</td>' in page
    assert main(["report", str(folder)]) == 0
    text = (folder / "report.md").read_text()
    assert "| round 1               | NVIDIA H100 80GB HBM3 | 1.5   | 2        | 4     |" in text


@pytest.mark.parametrize(
    ("table", "said"),
    [
        (
            "L40: 1\nL40S: 2\n",
            "no price for NVIDIA H100 80GB HBM3, only for L40, L40S: add a row for it",
        ),
        ("H100: much\n", "table.yaml: H100 must be a number of at least 0, got 'much'"),
        ("H100: -1\n", "table.yaml: H100 must be a number of at least 0, got -1"),
        ("- H100\n", "table.yaml: expected prices by GPU, got ['H100']; see configs/gpu_prices.yaml"),
        ("", "expected prices by GPU, got None"),
        ("H100: [", "gpu_prices={at}: not valid YAML"),
        (None, "gpu_prices={at}: expected a file, got nothing there"),
    ],
)
def test_mistakes_are_one_line(run, tmp_path, capfd, table, said):
    path, folder = tmp_path / "table.yaml", run()
    if table is not None:
        path.write_text(table)
    assert main(["report", str(folder), "--gpu_prices", str(path)]) == 2
    err = capfd.readouterr().err
    assert said.format(at=path) in err and err.count("\n") == 1
    assert not (folder / "report.html").exists()


@pytest.mark.parametrize(
    ("device", "dollars"),
    [
        ("NVIDIA H100 80GB HBM3", "2.69"),
        ("NVIDIA H100 PCIe", "1.99"),
        ("NVIDIA H100 NVL", "2.59"),
        ("NVIDIA A100-SXM4-80GB", "1.39"),
        ("NVIDIA A100 80GB PCIe", "1.19"),
        ("NVIDIA A100-PCIE-40GB", "1.19"),
        ("NVIDIA L40S", "0.79"),
        ("NVIDIA L40", "0.69"),
        ("NVIDIA L4", "0.44"),
        ("NVIDIA GeForce RTX 4090", "0.34"),
        ("NVIDIA H200", "3.59"),
    ],
)
def test_the_shipped_table_knows_drivers_names(device, dollars):
    assert read_gpu_prices(str(SHIPPED)).an_hour(device) == Decimal(dollars)


def test_a_gpu_of_another_name_is_not_taken_for_one_in_the_table():
    prices = read_gpu_prices(str(SHIPPED))
    for device in ("NVIDIA A10", "NVIDIA GH200 480GB", "Tesla T4", "NVIDIA RTX 6000 Ada Generation"):
        with pytest.raises(ConfigError, match=f"no price for {device}, only for B200, H200, H100"):
            prices.an_hour(device)
    assert prices.an_hour("CPU") is None
