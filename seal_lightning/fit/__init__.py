"""SEAL inside Lightning: the module, the trainer, its loop, and where units of work run."""
