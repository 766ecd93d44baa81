"""``python -m tests.soak``: half of the highest rate for an hour, with messages purged; does anything grow?"""

from __future__ import annotations

import argparse
import json
import sys
import traceback
from dataclasses import asdict
from pathlib import Path

from tests.soak import report
from tests.soak.run import JUDGED_FROM_SECONDS, run
from tests.support.clients import BACKENDS, CLIENTS
from tests.support.servers.base import ServiceError

HELP = """
exit codes: 0 all events were handled once and in order and nothing grows, 1 one was not or something grows, 2 there was no run
"""


def main() -> int:
    """0 if nothing grows, and nothing is missing."""
    arguments = _arguments()
    try:
        result = run(arguments.backend, arguments.seconds, arguments.calibrate)
    except ServiceError as error:
        print(error, file=sys.stderr)
        return 2
    except Exception:
        traceback.print_exc()
        return 2
    client = CLIENTS[arguments.backend]
    if arguments.samples:
        arguments.samples.write_text(json.dumps(asdict(result)))
    print(report.text(client, result))
    if arguments.publish:
        report.publish(client, result)
    return 0 if result.verdict in ("FLAT", "COMPLETE") else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.soak",
        description=__doc__,
        epilog=HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seconds", type=float, default=3600, help="of load; trends need 900 (default: 3600)")
    parser.add_argument("--calibrate", type=float, default=90, help="seconds to find the highest rate (default: 90)")
    parser.add_argument(
        "--backend", choices=BACKENDS, default="kafka", help="kafka-python (default) or confluent-kafka"
    )
    parser.add_argument("--samples", type=Path, metavar="FILE.json", help="keep all samples here")
    parser.add_argument("--publish", action="store_true", help="renew the client's table and plot in docs/proof.rst")
    arguments = parser.parse_args()
    if arguments.publish and arguments.seconds < JUDGED_FROM_SECONDS:
        parser.error(
            f"--publish needs a run that is long enough for trends: --seconds {JUDGED_FROM_SECONDS:.0f} or more"
        )
    return arguments


if __name__ == "__main__":
    sys.exit(main())
