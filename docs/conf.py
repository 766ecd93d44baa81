"""The documentation as a site: ``make docs`` builds it. Its pages also render on GitHub, except those in ``site/``."""

import os
import sys
from configparser import ConfigParser
from pathlib import Path

import django
from django.conf import settings

import django_outbox

ROOT = Path(__file__).resolve().parents[1]
SETUP = ConfigParser(interpolation=None)
SETUP.read(ROOT / "setup.cfg", encoding="utf-8")
URLS = dict(line.split(" = ") for line in SETUP["metadata"]["project_urls"].strip().splitlines())

# autodoc imports models, which need settings. Nothing connects to a database or a broker.
settings.configure(INSTALLED_APPS=["django.contrib.contenttypes", "django_outbox"], OUTBOX={"SOURCE": "docs"})
django.setup()

project = SETUP["metadata"]["name"]
author = copyright = SETUP["metadata"]["author"]
release = version = django_outbox.__version__
sys.path.insert(0, str(ROOT / "docs" / "site"))
extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon", "page_links"]
html_baseurl = URLS["Documentation"]
page_links_repository = f"{URLS['Source']}/blob/{os.environ.get('READTHEDOCS_GIT_IDENTIFIER', 'main')}/"
html_theme = "furo"
highlight_language = "none"
smartquotes = False  # quotes and dashes as they are written: text is also copied into code
autodoc_preserve_defaults = True
napoleon_use_ivar = True

# The build needs no network, so types of Python, Django and client libraries are not looked up.
nitpick_ignore_regex = [
    ("py:.*", r"(?!django_outbox\b).*"),
    ("py:class", r"django_outbox\..*\.(Function|Declared|NewMessage|Outgoing)"),  # not public
]
linkcheck_anchors_ignore_for_url = [r"https://github\.com/"]  # scripts add them
linkcheck_ignore = [r"http://127\.0\.0\.1:"]  # a server of the reader
