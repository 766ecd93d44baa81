"""Release a version: check that it is ready, date it in the changelog, commit, and tag it. Pushes nothing.

Usage: python .ci/release.py VERSION [--dry-run]
       python .ci/release.py VERSION --notes

--dry-run only checks. --notes prints the section of the changelog. A release that was interrupted is finished by another run.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import subprocess
from datetime import UTC, datetime
from pathlib import Path

CHANGELOG = Path("CHANGELOG.rst")
RECORDS = Path("tests/upgrades/releases")
BRANCH = "main"


def git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def sections() -> dict[str, tuple[str, str]]:
    """Of each version of the changelog its date, or "unreleased", and its text; the newest first."""
    parts = re.split(r"^(\d+\.\d+\.\d+) \((.+)\)\n=+\n", CHANGELOG.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    return {parts[i]: (parts[i + 1], parts[i + 2].strip()) for i in range(0, len(parts), 3)}


def problems_of_files(version: str) -> list[str]:
    """Say what in the files is not ready for the release."""
    found = []
    if f'\n__version__ = "{version}"\n' not in Path("django_outbox/__init__.py").read_text(encoding="utf-8"):
        found.append(f"__version__ in django_outbox/__init__.py is not {version}")
    newest = next(iter(sections()), "missing")
    if newest != version:
        found.append(f"the newest version of {CHANGELOG} is {newest}, not {version}")
    elif not re.fullmatch(r"unreleased|\d{4}-\d\d-\d\d", sections()[version][0]):
        found.append(f'{CHANGELOG} must have "unreleased" or a date behind {version}')
    if re.search(r"Until\s+the\s+first\s+release", Path("README.rst").read_text(encoding="utf-8")):
        found.append("README.rst tells users what to do until the first release: remove that")
    return found + problems_of_records(version)


def problems_of_records(version: str) -> list[str]:
    """Say what is wrong with the recorded tables of the release."""
    sums = RECORDS / version / "migrations.json"
    migrations = sorted(Path("django_outbox/migrations").glob("0*.py"))
    today = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in migrations}
    if not sums.exists():
        return [f"{RECORDS / version} is not complete: run python -m tests.upgrades {version}"]
    if json.loads(sums.read_text(encoding="utf-8")) != today:
        return [f"migrations have changed since {version} was recorded: run python -m tests.upgrades {version}"]
    return []


def problems_of_git(version: str) -> list[str]:
    """Say what in the clone is not ready for the release."""
    found = []
    branch = git("branch", "--show-current")
    if branch != BRANCH:
        found.append(f"the branch is {branch or 'none'}, not {BRANCH}")
    if git("status", "--porcelain"):
        found.append("the tree has changes that are not committed, or files that git does not know")
    if git("tag", "--list", f"v{version}"):
        found.append(f"the tag v{version} exists already")
    return found


def release(version: str) -> None:
    """Date the version, unless a run before this one has done so, and tag it."""
    if sections()[version][0] == "unreleased":
        text = CHANGELOG.read_text(encoding="utf-8")
        heading = f"{version} ({datetime.now(UTC):%Y-%m-%d})"
        dated = re.sub(
            rf"^{re.escape(version)} \(unreleased\)\n=+$", f"{heading}\n{'=' * len(heading)}", text, flags=re.M
        )
        CHANGELOG.write_text(dated, encoding="utf-8")
        git("commit", "--message", f"Release {version}", str(CHANGELOG))
    git("tag", "--annotate", f"v{version}", "--message", f"Release {version}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("version")
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--dry-run", action="store_true", help="only check")
    mode.add_argument("--notes", action="store_true", help="print the section of the changelog")
    options = parser.parse_args()
    version = options.version
    if not re.fullmatch(r"\d+\.\d+\.\d+", version):
        parser.error(f"{version!r} is not a version such as 0.1.0")
    if options.notes:
        date, notes = sections().get(version, ("unreleased", ""))
        if date == "unreleased":
            raise SystemExit(f"{version} is not released: {CHANGELOG} has no date for it.")
        print(notes)
        return
    if problems := problems_of_files(version) + problems_of_git(version):
        raise SystemExit("\n".join([f"{version} cannot be released:", *(f"- {problem}" for problem in problems)]))
    if options.dry_run:
        print(f"{version} is ready. Nothing was changed.")
        return
    release(version)
    print(f"{version} is committed and tagged. To publish it:\n\n    git push --atomic origin {BRANCH} v{version}")


if __name__ == "__main__":
    main()
