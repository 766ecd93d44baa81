"""``python -m tests.chaos``: publishers, workers, brokers and the database are killed and cut off under load.

The environment sets the options, such as ``CHAOS_SECONDS=1800``; see ``--help``. What workers printed is in ``.cache/chaos``.
"""

from __future__ import annotations

import argparse
import os
import sys
import traceback

from tests.chaos import plan, report
from tests.chaos.options import Options, read
from tests.chaos.run import LOGS, AlreadyRunning, Run, missing
from tests.support.servers.base import ServiceError

PRIVATE_MOUNTS = "OUTBOX_CHAOS_PRIVATE_MOUNTS"
HELP = """
options, by environment variables:
  CHAOS_SECONDS   of load and faults (default: 180); then the run waits until all is handled
  CHAOS_RATE      flights published a second (default: 187.1, the year in 30 minutes)
  CHAOS_SEED      of the plan (default: 1)
  CHAOS_BACKEND   kafka (default) or confluent
  CHAOS_BROKERS   3 (default) or 1
  CHAOS_REPLICAS  of each partition (default: the number of brokers)
  CHAOS_FAULTS    kinds of faults, by comma (default: all): {kinds}
  CHAOS_OLD       git revision of the package that the old release runs, or "same" (default: the first with today's tables)

exit codes: 0 all guarantees hold, 1 one is broken, a fault could not be caused or not all was handled, 2 there was no run
"""


def main() -> int:
    """0 if nothing was lost, handled twice or out of order."""
    arguments = _arguments()
    try:
        options = read()
        left_out = missing(options)
        planned = plan.plan(options, without=left_out)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    if arguments.plan:
        print("\n".join(f"{each.at:7.1f} s  {each}" for each in planned))
        return 0
    if any(each.kind == "disk" for each in planned) and PRIVATE_MOUNTS not in os.environ:
        # What is mounted for small disks is gone with the last process of the run, however it ends.
        os.environ[PRIVATE_MOUNTS] = "yes"
        os.execvp("unshare", ["unshare", "--mount", sys.executable, "-m", "tests.chaos", *sys.argv[1:]])  # noqa: S606, S607
    return _run(options, planned, left_out, publish=arguments.publish)


def _run(options: Options, planned: list[plan.Planned], left_out: dict[str, str], *, publish: bool) -> int:
    for kind, reason in left_out.items():
        if kind in (options.kinds or plan.NAMES):
            print(f"left out: {kind}, which {reason}", file=sys.stderr)
    try:
        result = Run(options, planned).run()
    except (AlreadyRunning, ServiceError) as error:
        print(error, file=sys.stderr)
        return 2
    except Exception:
        traceback.print_exc()
        return 2
    summary = report.Summary.of(options, result)
    (LOGS / "plot.svg").write_text(report.draw(summary, result))
    print(report.text(summary, result))
    if publish:
        report.publish(summary, result)
    return 0 if result.verdict == "HOLDS" else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.chaos",
        description=__doc__,
        epilog=HELP.format(kinds=", ".join(plan.NAMES)),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--plan", action="store_true", help="print the faults of the seed, and run nothing")
    parser.add_argument("--publish", action="store_true", help="renew the client's row and plot in docs/proof.rst")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
