"""Ask a vulnerability service about every package that users of this one install.

The end says one of three things: nothing is known against them, something is (exit code 1), or they could not be
looked up, as no service answers from here or knows them. The last is no failure of this package, but it is no
assurance either, and is told as what it is.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement

PACKAGE = "django-kafka-outbox"
EXTRAS = ("avro", "confluent", "devbroker", "jsonschema", "metrics", "otel", "protobuf", "typed")
SERVICES = ("pypi", "osv")
SECONDS = 120
UNREACHABLE = ("requests.exceptions.", "urllib3.exceptions.", "Could not connect", "ConnectionError", "Timeout")


@dataclass
class Found:
    """What one service said.

    Attributes:
        findings: "package version: ID (fixed in ...)", one a line.
        known: packages that it has looked up.
        trouble: why it said nothing.
        broken: what went wrong with the question itself, if anything did.
    """

    findings: list[str] = field(default_factory=list)
    known: set[str] = field(default_factory=set)
    trouble: str = ""
    broken: str = ""


def dependencies(package: str, extras: Iterable[str]) -> dict[str, str]:
    """Name and version of all that a package and its extras need here, and that these need."""
    found: dict[str, str] = {}
    seen: set[tuple[str, str]] = set()
    left = [(package, extra) for extra in ("", *extras)]
    while left:
        name, extra = left.pop()
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        try:
            installed = distribution(name)
        except PackageNotFoundError:  # of another platform
            continue
        if name != package:
            found[installed.metadata["Name"]] = installed.version
        for requirement in map(Requirement, installed.requires or []):
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                left += [(requirement.name, wanted) for wanted in ("", *requirement.extras)]
    return dict(sorted(found.items()))


def ask(service: str, packages: dict[str, str]) -> Found:
    """What a service knows against packages."""
    with tempfile.TemporaryDirectory() as directory:
        pinned = Path(directory) / "requirements.txt"
        pinned.write_text("".join(f"{name}=={version}\n" for name, version in packages.items()))
        command = [sys.executable, "-m", "pip_audit", "--requirement", str(pinned), "--no-deps", "--disable-pip"]
        command += ["--progress-spinner", "off", "--format", "json", "--vulnerability-service", service]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
        except subprocess.TimeoutExpired:
            return Found(trouble=f"no answer within {SECONDS} s")
    return judge(done.stdout, done.stderr)


def judge(stdout: str, stderr: str) -> Found:
    """What pip-audit has printed, understood."""
    try:
        answers = json.loads(stdout)["dependencies"]
    except (ValueError, KeyError, TypeError):
        last = stderr.strip().splitlines()[-1] if stderr.strip() else "it printed nothing"
        if any(sign in stderr for sign in UNREACHABLE):
            return Found(trouble=f"it cannot be reached ({last[:300]})")
        return Found(broken=stderr.strip() or last)
    found = Found()
    for answer in answers:
        if "skip_reason" in answer:
            continue
        found.known.add(answer["name"].lower())
        for vulnerability in answer["vulns"]:
            fixed = ", ".join(vulnerability.get("fix_versions") or ()) or "no version"
            found.findings.append(f"{answer['name']} {answer['version']}: {vulnerability['id']} (fixed in {fixed})")
    if not found.known:
        found.trouble = "it knows none of them"
    return found


def audit(packages: dict[str, str], ask: Callable[[str, dict[str, str]], Found] = ask) -> int:
    """Ask one service after the other about what is still unknown, and print the end. Returns the exit code."""
    left = dict(packages)
    findings: list[str] = []
    for service in SERVICES:
        answer = ask(service, left)
        if answer.broken:
            print(f"pip-audit failed:\n{answer.broken}")
            return 2
        if answer.trouble:
            print(f"The vulnerability service {service} was no help: {answer.trouble}.")
        findings += answer.findings
        left = {name: version for name, version in left.items() if name.lower() not in answer.known}
        if not left:
            break
    looked_up = len(packages) - len(left)
    if left:
        print(f"NOT AUDITED, as no service could be asked: {', '.join(f'{name} {left[name]}' for name in left)}.")
    if findings:
        print("\n".join(["Known vulnerabilities:", *findings]))
        return 1
    if looked_up:
        print(f"{looked_up} of {len(packages)} packages looked up: no vulnerability is known.")
    return 0


if __name__ == "__main__":
    sys.exit(audit(dependencies(PACKAGE, EXTRAS)))
