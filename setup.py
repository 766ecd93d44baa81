"""What PyPI shows: the README with absolute links and pictures. Everything else is in setup.cfg."""

import re
from configparser import ConfigParser
from pathlib import Path

ROOT = Path(__file__).parent


def source() -> str:
    """The address of the repository."""
    config = ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    urls = config["metadata"]["project_urls"].strip().splitlines()
    return dict(re.split(r"\s*=\s*", line.strip(), maxsplit=1) for line in urls)["Source"]


def version() -> str:
    module = (ROOT / "django_outbox" / "__init__.py").read_text(encoding="utf-8")
    return re.search(r'^__version__ = "(.+)"$', module, re.MULTILINE)[1]


def for_pypi(readme: str) -> str:
    """Make relative links and pictures absolute: the files of the same version in the repository."""
    tag = f"v{version()}"
    readme = re.sub(r"^(\.\. image:: )(?!\w+:)", rf"\1{source()}/raw/{tag}/", readme, flags=re.MULTILINE)
    return re.sub(r"(`[^`<>]+?\s<)(?!\w+:|#)([^`<>]+>`__?)", rf"\1{source()}/blob/{tag}/\2", readme)


if __name__ == "__main__":
    from setuptools import setup

    setup(long_description=for_pypi((ROOT / "README.rst").read_text(encoding="utf-8")))
