"""The policy: the model that writes self-edits and is adapted."""
