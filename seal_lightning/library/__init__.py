"""Documents that a model has learnt, as a folder of `seal adapt` keeps them: the manifest, and what is read from it."""
