"""Links between files of the repository, as GitHub needs them, become links of the site.

A page stands for its file, or for the file that it includes. Links to other files lead to the repository.
"""

import os
import re
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util import logging
from sphinx.util.nodes import get_node_source

log = logging.getLogger(__name__)


@cache
def pages_of(docs: Path) -> dict[Path, str]:
    """The names of all pages, by file."""
    pages = {}
    for page in docs.rglob("*.rst"):
        included = re.fullmatch(r"(?::orphan:\s+)?\.\. include:: (\S+)\s*", page.read_text(encoding="utf-8"))
        file = page.parent / included[1] if included else page
        pages[file.resolve()] = page.relative_to(docs).with_suffix("").as_posix()
    return pages


def file_of(node: nodes.Element, path: str) -> Path:
    """The file with this path, relative to the file in which it is written; an empty path is that file itself."""
    source = Path(get_node_source(node)).resolve()
    return (source.parent / (path or source.name)).resolve()


class Targets(SphinxTransform):
    """Find what links and pictures name; those of an included file are relative to that file."""

    default_priority = 100

    def apply(self) -> None:
        for image in self.document.findall(nodes.image):
            if not urlsplit(image["uri"]).scheme:
                image["uri"] = "/" + os.path.relpath(file_of(image, image["uri"]), self.env.srcdir)
        for reference in self.document.findall(nodes.reference):
            self.find(reference, reference.get("refuri", ""))

    def find(self, reference: nodes.reference, link: str) -> None:
        docs, path = Path(self.env.srcdir), link.partition("#")[0]
        if link.startswith(self.config.html_baseurl):
            reference["page"] = path.removeprefix(self.config.html_baseurl).removesuffix(".html")
        elif urlsplit(link).scheme or not link:
            return
        elif (file := file_of(reference, path)) in pages_of(docs):
            reference["page"] = pages_of(docs)[file]
        elif file.exists():
            address = self.config.page_links_repository + os.path.relpath(file, docs.parent)
            reference["refuri"] = address + link.removeprefix(path)
        else:
            log.warning("%s does not exist", link, location=reference)


class Navigation(SphinxTransform):
    """The sidebar has the sections of the root page, and in each what it links to."""

    default_priority = 110

    def apply(self) -> None:
        if self.env.docname != self.config.root_doc:
            return
        seen = {self.config.root_doc}
        for part in self.document.next_node(nodes.section).children[1:]:
            caption = next((title.astext() for title in part.findall(nodes.title)), None)
            texts = {each.get("page", each["refuri"]): each.astext() for each in part.findall(nodes.reference)}
            entries = [(text, place) for place, text in texts.items() if place not in seen]
            pages = [place for _, place in entries if place in self.env.found_docs]
            tree = addnodes.toctree(parent=self.env.docname, hidden=True, glob=False, titlesonly=True)
            tree.attributes |= {"caption": caption, "rawcaption": caption, "entries": entries, "includefiles": pages}
            seen.update(texts)
            part.replace_self([part, tree])


class PageLinks(SphinxPostTransform):
    """Write the links to pages, once all anchors are known."""

    default_priority = 5  # before Sphinx adds its own

    def run(self) -> None:
        for reference in self.document.findall(lambda node: isinstance(node, nodes.reference) and "page" in node):
            page, (_, hash_, anchor) = reference["page"], reference["refuri"].partition("#")
            if page not in self.env.found_docs:
                log.warning("%s does not exist", reference["refuri"], location=reference)
                continue
            elements = self.env.get_doctree(page).findall(nodes.Element) if anchor else ()
            if anchor and not any(anchor in element["ids"] for element in elements):
                log.warning("%s does not have the anchor %s", page, anchor, location=reference)
            reference["refuri"] = self.app.builder.get_relative_uri(self.env.docname, page) + hash_ + anchor
            reference["internal"] = True


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_config_value("page_links_repository", "", "env", str)
    app.add_transform(Targets)
    app.add_transform(Navigation)
    app.add_post_transform(PageLinks)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
