"""Links to the documentation, for hints and errors."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, metadata

DISTRIBUTION = "django-kafka-outbox"


def documentation(page: str) -> str:
    """The address of a page, such as ``"brokers"``: on the site that the package's metadata names, else the source file."""
    try:
        urls = metadata(DISTRIBUTION).get_all("Project-URL") or []
    except PackageNotFoundError:  # run from the source tree
        urls = []
    for entry in urls:
        label, _, url = entry.partition(", ")
        if label == "Documentation":
            return f"{url.rstrip('/')}/{page}.html"
    return f"docs/{page}.rst"
