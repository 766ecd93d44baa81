"""Examples of the documentation, as text and as modules."""

from __future__ import annotations

from types import ModuleType

from docutils import nodes
from docutils.core import publish_doctree

from tests.support.processes import ROOT


def example_of_page(page: str, path: str) -> str:
    """The example of a page whose first line is a comment with this path."""
    tree = publish_doctree((ROOT / page).read_text(), settings_overrides={"syntax_highlight": "none"})
    blocks = [each.astext() for each in tree.findall(nodes.literal_block)]
    (block,) = (each for each in blocks if each.startswith((f"# {path}\n", f"// {path}\n", f"-- {path}\n")))
    return block


def module_of_page(page: str, path: str) -> ModuleType:
    """Run an example of a page, and return its module."""
    module = ModuleType(path.removesuffix(".py").replace("/", "."))
    exec(example_of_page(page, path), vars(module))  # noqa: S102
    return module
