"""How the documentation is built: ``make docs``."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

from pydump import __version__

project = "pydump"
author = "the pydump developers"
copyright = author
version = release = __version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "pydump_reference"]
exclude_patterns = ["_build", "_ext", "reference/_generated"]
myst_enable_extensions = ["deflist", "colon_fence"]
myst_heading_anchors = 3
html_theme = "furo"
html_title = f"pydump {release}"
html_theme_options = {"navigation_with_keys": True}
man_pages = [("reference/command-line", "pydump", "turn guest memory into a vmcore that every tool can open", "", 1)]
man_show_urls = False
# One name in several classes: a type hint that says `type` is none of them.
suppress_warnings = ["ref.python"]
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True, "undoc-members": True, "show-inheritance": True}
napoleon_numpy_docstring = False
napoleon_use_ivar = True
