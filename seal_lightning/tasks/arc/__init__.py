"""ARC: few-shot puzzles of grids, to which the model adapts with tools and settings of its own choice (section 4.1)."""
