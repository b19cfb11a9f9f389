"""What happened in a run, as one self-contained HTML page and a Markdown one beside it."""
