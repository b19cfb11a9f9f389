"""Six small runs in the lab (two filters, three seeds each), their report, and a picture of it for docs/report.md.

    python docs/six_runs.py [FOLDER]      # about five minutes; runs that are there already are not made again

Needs Chromium. The picture is the first screen of the page, docs/images/report-groups.png.
"""

import shutil
import subprocess
import sys
from pathlib import Path

from seal_lightning.commands.quickstart import Fit, start_fit
from seal_lightning.commands.report import main

FILTERS = ("ReSTEMFilter", "RandomFilter")
SEEDS = 3
SIZE = (1280, 860)  # of the picture, pixels
PICTURE = Path(__file__).parent / "images" / "report-groups.png"


def fit_all(folder: Path) -> list[Path]:
    """Run what is missing, the two filters of a seed at a time."""
    places = [folder / f"{name}-{seed}" for name in FILTERS for seed in range(SEEDS)]
    for seed in range(SEEDS):
        fits: list[Fit] = []
        for name in FILTERS:
            place = folder / f"{name}-{seed}"
            if not (place / "fit.md").exists():
                options = ("--filter", f"seal_lightning.callbacks.{name}", "--model.seed", str(seed))
                fits.append(start_fit(place, *options, quiet=True))
        for fit in fits:
            fit.wait()
    return places


def draw(page: Path, picture: Path) -> None:
    """The first screen of a page."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        raise SystemExit("no Chromium: apt-get install chromium")
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--screenshot={picture}"]
    subprocess.run([browser, *options, "--window-size={},{}".format(*SIZE), page.as_uri()], check=True)


if __name__ == "__main__":
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/six").resolve()
    page = folder / "report.html"
    main([*map(str, fit_all(folder)), "--output", str(page)])
    draw(page, PICTURE)
