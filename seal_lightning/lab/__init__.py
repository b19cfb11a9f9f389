"""The lab: a tiny world and model in which SEAL learns in about a minute on two cores (docs/lab.md)."""

from seal_lightning.lab.data import LabDataModule, LabPassages

__all__ = ["LabDataModule", "LabPassages"]
