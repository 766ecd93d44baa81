"""What PyPI shows: the README without what it cannot follow there. All else is said in setup.cfg."""

import re
from pathlib import Path

from setuptools import setup


def for_pypi(readme: str) -> str:
    """Leave out pictures that lie in the repository, and name its files instead of linking to them."""
    readme = re.sub(r"^\.\. image:: (?!https?:).*\n(?:[ ]+.*\n)*\n", "", readme, flags=re.MULTILINE)
    return re.sub(r"`([^`<>]+?)\s+<(?!https?:)([^`<>#]+)(?:#[^`<>]*)?>`__", r"\1 (``\2``)", readme)


setup(long_description=for_pypi(Path(__file__).with_name("README.rst").read_text(encoding="utf-8")))
