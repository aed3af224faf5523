"""How the pages look, for Sphinx, which chapters/pages/build.py calls."""

import re
import sys
from pathlib import Path

from docutils import nodes

PAGES = Path(__file__).resolve().parent
sys.path.insert(0, str(PAGES))

from cells import ROOT  # noqa: E402  (the path comes first)
from markup import glossary  # noqa: E402  (the path comes first)

project = html_title = "GPT-2 by hand, and LoRA"
copyright = "the authors; see LICENSE"
language = "en"
extensions = ["myst_nb", "sphinx_codeautolink", "sphinx_copybutton", "sphinx.ext.mathjax"]
html_theme = "furo"
html_static_path = [str(PAGES / "static"), str(ROOT / "data" / "book" / "static")]    # the second holds MathJax
mathjax_path = "mathjax/tex-chtml.js"
html_css_files = ["pages.css"]
html_js_files = ["pages.js"]
html_copy_source = False
html_show_sphinx = False
html_use_index = False
html_domain_indices = False
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#2f6b52", "color-brand-content": "#2f6b52"},
    "dark_css_variables": {"color-brand-primary": "#8cc7a8", "color-brand-content": "#8cc7a8"},
}
pygments_style = "a11y-high-contrast-light"
pygments_dark_style = "github-dark"
smartquotes = False    # --quick keeps its two strokes
copybutton_selector = "div.cell_input pre, section > div.highlight-default pre"

nb_execution_mode = "off"    # run.py has run them
nb_merge_streams = True
nb_render_markdown_format = "myst"
nb_code_prompt_show = "Show the imports and settings"
nb_code_prompt_hide = "Hide the imports and settings"
nb_render_image_options = {"alt": "What the code above draws; the caption below says what to see."}
myst_enable_extensions = ["dollarmath", "amsmath", "colon_fence", "attrs_block"]
myst_heading_anchors = 3
codeautolink_concat_default = True    # a name that one cell imports is known in the next
mathjax3_config = {"options": {"enableMenu": False}}
suppress_warnings = ["myst.header", "config.cache", "codeautolink.match_name"]

NO_LINKS_IN = (nodes.literal, nodes.reference, nodes.title, nodes.raw, nodes.math, nodes.FixedTextElement)


def setup(app):
    app.connect("doctree-resolved", link_first_uses)


def link_first_uses(app, doctree, page):
    """Link the first use of each of the glossary's words in a chapter to its row there."""
    if not page[0].isdigit():
        return
    words, glossary_page = dict(glossary()), app.builder.get_relative_uri(page, "GLOSSARY")
    for text in list(doctree.findall(nodes.Text)):
        if words and not any(_takes_no_links(node) for node in _around(text)):
            text.parent.replace(text, _with_links(text, words, glossary_page))


def _around(node):
    while node := node.parent:
        yield node


def _takes_no_links(node):
    return isinstance(node, NO_LINKS_IN) or "facts" in node.get("classes", [])


def _with_links(text, words, glossary_page):
    """The text in pieces; a word that is linked is taken out of `words`."""
    pattern = "|".join(re.escape(word) for word in sorted(words, key=len, reverse=True))
    pieces, done = [], 0
    in_prose = rf"(?<!your )(?<![\w/.])({pattern})(?:e?s)?(?![\w/]|\.\w)"    # not in your head, nor in a file's name
    for found in re.finditer(in_prose, text, re.IGNORECASE):
        row, meaning = words.pop(found[1].lower(), (None, None))
        if row:
            link = nodes.reference("", found[0], refuri=f"{glossary_page}#{row}", reftitle=meaning, classes=["word"])
            pieces += [nodes.Text(text[done:found.start()]), link]
            done = found.end()
    return [*pieces, nodes.Text(text[done:])]
