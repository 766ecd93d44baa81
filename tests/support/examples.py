"""Examples of the documentation, as modules."""

from __future__ import annotations

from types import ModuleType

from docutils import nodes
from docutils.core import publish_doctree

from tests.support.processes import ROOT


def module_of_page(page: str, path: str) -> ModuleType:
    """Run the example of a page whose first line is a comment with this path, and return its module."""
    tree = publish_doctree((ROOT / page).read_text(), settings_overrides={"syntax_highlight": "none"})
    blocks = [each.astext() for each in tree.findall(nodes.literal_block)]
    (block,) = (each for each in blocks if each.startswith(f"# {path}\n"))
    module = ModuleType(path.removesuffix(".py").replace("/", "."))
    exec(block, vars(module))  # noqa: S102
    return module
