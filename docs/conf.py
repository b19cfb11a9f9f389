"""The pages of docs/ as a site: `make docs` writes it to build/docs, where it needs neither a server nor a network.

What there is, and in which order, is in _toc.yml. The pages stay plain Markdown, so that they read as well without it.
"""

from seal_lightning import __version__

project = "seal-lightning"
author = "The seal-lightning authors"
copyright = "the seal-lightning authors"
version = release = __version__

extensions = ["myst_parser", "sphinx_external_toc"]
external_toc_path = "_toc.yml"
exclude_patterns = ["*.py"]
html_theme = "furo"
html_title = "seal-lightning"
html_show_sourcelink = False
myst_heading_anchors = 6  # as GitHub makes them, so that links to headings work in both
myst_links_external_new_tab = False
pygments_style, pygments_dark_style = "friendly", "monokai"
