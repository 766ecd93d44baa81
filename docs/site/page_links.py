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
from sphinx.util.nodes import get_node_line, get_node_source

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


def file_of(node: nodes.Element, link: str) -> Path:
    """The file that a relative link names, from where it is written."""
    source = Path(get_node_source(node)).resolve()
    return (source.parent / (link.partition("#")[0] or source.name)).resolve()


def destination(transform: SphinxTransform, reference: nodes.reference) -> str:
    """The name of the page that a link leads to, else its address; warn if there is no such page or file."""
    docs, config, link = Path(transform.env.srcdir), transform.config, reference.get("refuri", "")
    if link.startswith(config.html_baseurl):
        place = urlsplit(link.removeprefix(config.html_baseurl)).path.removesuffix(".html")
        found = place in pages_of(docs).values()
    elif urlsplit(link).scheme or not link:
        return link
    else:
        file, (_, hash_, anchor) = file_of(reference, link), link.partition("#")
        address = config.page_links_repository + os.path.relpath(file, docs.parent) + hash_ + anchor
        place = pages_of(docs).get(file, address)
        found = file.exists()
    if not found:
        log.warning("%s does not exist", link, location=reference)
    return place if found else link


class IncludedFiles(SphinxTransform):
    """Links and pictures of an included file are written from its place, not from that of the page that includes it."""

    default_priority = 100

    def apply(self) -> None:
        for reference in self.document.findall(nodes.reference):
            # Absolute, since the next build may run in another folder.
            reference.source, reference.line = str(file_of(reference, "")), get_node_line(reference)
        for image in self.document.findall(nodes.image):
            if not urlsplit(image["uri"]).scheme:
                image["uri"] = "/" + os.path.relpath(file_of(image, image["uri"]), self.env.srcdir)


class Navigation(SphinxTransform):
    """The sidebar has the sections of the root page, and in each what it links to."""

    default_priority = 110

    def apply(self) -> None:
        if self.env.docname != self.config.root_doc:
            return
        seen = {self.config.root_doc}
        for part in self.document.next_node(nodes.section).children[1:]:
            caption = next((title.astext() for title in part.findall(nodes.title)), None)
            texts = {destination(self, each): each.astext() for each in part.findall(nodes.reference)}
            entries = [(text, place) for place, text in texts.items() if place not in seen]
            pages = [place for _, place in entries if place in self.env.found_docs]
            tree = addnodes.toctree(parent=self.env.docname, hidden=True, glob=False, titlesonly=True)
            tree.attributes |= {"caption": caption, "rawcaption": caption, "entries": entries, "includefiles": pages}
            seen.update(texts)
            part.replace_self([part, tree])


class PageLinks(SphinxPostTransform):
    """Each relative link, and each link to the site itself, leads to a page or to the repository."""

    default_priority = 5  # before Sphinx adds its own

    def run(self) -> None:
        for reference in self.document.findall(nodes.reference):
            place, (_, hash_, anchor) = destination(self, reference), reference.get("refuri", "").partition("#")
            if place in self.env.found_docs:
                reference["refuri"] = self.app.builder.get_relative_uri(self.env.docname, place) + hash_ + anchor
                reference["internal"] = True
                elements = self.env.get_doctree(place).findall(nodes.Element) if anchor else ()
                if anchor and not any(anchor in element["ids"] for element in elements):
                    log.warning("%s does not have the anchor %s", place, anchor, location=reference)
            elif place:
                reference["refuri"] = place


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_config_value("page_links_repository", "", "env", str)
    app.add_transform(IncludedFiles)
    app.add_transform(Navigation)
    app.add_post_transform(PageLinks)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
