"""Settings that are ready to use, as files; installed as seal_lightning.configs."""
