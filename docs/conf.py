"""Sphinx configuration: MyST pages, furo, warnings are errors (see `noxfile.py`)."""

project = "pytest-flowcheck"
author = "The pytest-flowcheck contributors"
copyright = "2026, the pytest-flowcheck contributors"

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_heading_anchors = 3
html_theme = "furo"
html_title = "pytest-flowcheck"
exclude_patterns = ["_build"]
autodoc_typehints = "description"
default_role = "code"
nitpicky = False
