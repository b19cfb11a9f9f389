"""The commands of `seal`, a module or a folder each."""
