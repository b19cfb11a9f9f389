"""`seal replay FILES`: tables, rewards and kept edits from journals and published runs, without a model."""
