"""Sphinx's settings: `python -m sphinx -W docs OUT` builds the site."""

import re

import diffjax

project = "diffjax"
author = "The diffjax authors"
copyright = "The diffjax authors"
version = release = diffjax.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
]
exclude_patterns = ["_build"]
myst_enable_extensions = ["dollarmath", "amsmath", "colon_fence", "deflist"]
myst_heading_anchors = 4
myst_dmath_double_inline = True
highlight_language = "default"
mathjax4_config = {"output": {"displayOverflow": "linebreak"}}  # for narrow screens

html_theme = "furo"
html_title = f"diffjax {version}"
html_static_path = ["_static"]
html_css_files = ["diffjax.css"]
html_copy_source = False
html_show_sphinx = False
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

# Docstrings are Google's; single backticks in them are code.
default_role = "literal"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_include_init_with_doc = True
napoleon_use_ivar = True
napoleon_attr_annotations = False
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints = "signature"
python_use_unqualified_type_names = True
maximum_signature_line_length = 80

_CODE = re.compile(r"(`+[^`]*`+)")


def _as_rst(text: str) -> str:
    """Escape what means something in reStructuredText and only itself in our docstrings."""
    found = ""
    for part in _CODE.split(text):
        if part.startswith("`"):
            found += part
            continue
        if found.endswith("`") and part[:1].isalnum():  # the plural of a name in backticks
            found += "\\ "
        found += re.sub(r"([|*]|_(?=\W|$))", r"\\\1", part)
    return found


def _mend_docstring(app, what, name, obj, options, lines):
    """Mark indented paragraphs as code and escape the rest, before napoleon reads it."""
    mended: list[str] = []
    in_code = False
    for before, line in zip(["", *lines], lines, strict=False):
        indented = line.startswith("    ")
        # Code stands by itself, below text at the margin; a section's second line doesn't.
        if indented and not before.strip() and not in_code:
            last = next((each for each in reversed(mended) if each.strip()), "")
            if not last.startswith(" "):
                mended += ["::", ""]
                in_code = True
        elif line.strip() and not indented:
            in_code = False
        mended.append(line if in_code or line.lstrip().startswith(">>>") else _as_rst(line))
    lines[:] = mended


def setup(app):
    """Read docstrings before napoleon does, whose priority is 500."""
    app.connect("autodoc-process-docstring", _mend_docstring, priority=400)
