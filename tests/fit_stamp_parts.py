"""Classes from outside the package, as a user would bring them."""

from seal_lightning.sampling import LocalAnswerer


class Shouting(LocalAnswerer):
    """Answers in capitals."""
