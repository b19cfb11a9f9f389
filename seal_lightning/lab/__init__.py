"""The lab: a tiny world and model in which SEAL learns in a minute and a half on two cores (docs/lab.md)."""

from seal_lightning.lab.data import ChangedTowns, KnownTowns, LabDataModule, LabPassages

__all__ = ["ChangedTowns", "KnownTowns", "LabDataModule", "LabPassages"]
