"""Settings of the documentation site."""

import re
import sys
from pathlib import Path

import matplotlib
from docutils import nodes
from sphinx_gallery.directives import imgsgnode

import torchsk

matplotlib.use("Agg")
sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "torchsk"
author = "The torchsk developers"
copyright = "2026, The torchsk developers"
version = release = torchsk.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "numpydoc",
    "sphinx_copybutton",
    "sphinx_gallery.gen_gallery",
    "registries",
]
exclude_patterns = ["_build"]
templates_path = ["_templates"]
default_role = "literal"

html_theme = "pydata_sphinx_theme"
html_title = "torchsk"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_theme_options = {"show_toc_level": 2, "navigation_with_keys": False}
html_show_sourcelink = False
html_sidebars = {"index": []}
toc_object_entries_show_parents = "hide"

autosummary_generate = True
autodoc_typehints = "none"
numpydoc_show_class_members = False

sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "auto_examples",
    "copyfile_regex": r"index\.rst",  # the sections and the order of the examples
    "reset_modules": ("matplotlib", "letters.enlarge"),
    "doc_module": ("torchsk",),
    "reference_url": {"torchsk": None},
    "backreferences_dir": "generated/backreferences",
    "download_all_examples": False,
    "minigallery_sort_order": "gallery_order.place_in_index",
    "remove_config_comments": True,
    "write_computation_times": False,  # a page that loads scripts from elsewhere
}


#: methods of scikit-learn that the API pages show; the others are the same in every estimator
SHOWN = ("set_callbacks", "set_fit_request")


def leave_out_what_others_wrote(app, what, name, obj, skip, options):
    """Leave get_params and other methods of scikit-learn out of the API pages."""
    written_in = getattr(getattr(obj, "fget", obj), "__module__", None) or ""
    return None if written_in.startswith("torchsk") or name in SHOWN else True


def unlink_what_others_wrote(app, what, name, obj, options, lines):
    """Turn references into scikit-learn's own pages, which are not here, into plain words."""
    if name.endswith(SHOWN):
        lines[:] = [
            re.sub(r":(?:ref|term):`([^`<]+?)(?: <[^`]*>)?`", r"\1", line) for line in lines
        ]


def let_wide_figures_scroll(app, doctree):
    """Put each figure of the gallery into a box that scrolls on a narrow screen."""
    for image in list(doctree.findall(imgsgnode)):
        box = nodes.container(classes=["scroll"])
        image.replace_self(box)
        box += image


def setup(app):
    """Connect the hooks."""
    app.connect("doctree-read", let_wide_figures_scroll)
    app.connect("autodoc-skip-member", leave_out_what_others_wrote)
    app.connect("autodoc-process-docstring", unlink_what_others_wrote)
