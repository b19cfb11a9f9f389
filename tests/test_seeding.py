"""Seeds by name: literal values, so that an old run can be repeated by a new version."""

import subprocess
import sys

from seal_lightning.seeding import derive_seed


def test_seeds_are_these_numbers():
    assert derive_seed("edit", 0, 1, "ctx", 2) == 1596354326459168873
    assert derive_seed("a", "1") == 9088206098817292194
    assert derive_seed("a", 1) == 8390313410132574505
    assert derive_seed("a1") == 4535176037894912165


def test_every_part_its_place_and_its_type_count():
    parts = [("a", 1, 2), ("a", 2, 1), ("a", 12), ("a", "1", 2), ("b", 1, 2), ("a", 1, 2, 0), (1, 2, "a")]
    assert len({derive_seed(*part) for part in parts}) == len(parts)


def test_seeds_fit_every_generator():
    seeds = [derive_seed("range", number) for number in range(2000)]
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert len(set(seeds)) == 2000
    assert max(seeds) > 2**62  # the top bit is used
    assert 900 < sum(seed % 2 for seed in seeds) < 1100


def test_seeds_do_not_depend_on_the_process():
    code = "from seal_lightning.seeding import derive_seed; print(derive_seed('edit', 0, 1, 'ctx', 2))"
    run = subprocess.run([sys.executable, "-c", code], env={"PYTHONHASHSEED": "7"}, capture_output=True, check=True)
    assert int(run.stdout) == 1596354326459168873
