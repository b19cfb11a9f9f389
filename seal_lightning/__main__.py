"""`python -m seal_lightning` is the `seal` command."""

import sys

from seal_lightning.cli import main

if __name__ == "__main__":
    sys.exit(main())
