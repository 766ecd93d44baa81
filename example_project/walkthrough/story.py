"""The demo's steps, in order."""

import time
from collections.abc import Callable

from .errors import DemoFailed, Stopped
from .ports import answers
from .screen import Screen
from .services import MAX_RETRY, Services, typed_command
from .shop import Message, Order, Shop
from .state_dir import shown_path
from .table import summary

PACE_SECONDS = 0.7
POLL_SECONDS = 0.2

POISONED_ITEM = "grand-piano"
ORDERS = (
    ("ada@example.com", "teapot", 2),
    ("grace@example.com", "desk-lamp", 1),
    ("edsger@example.com", "cookbook", 3),
    ("clara@example.com", POISONED_ITEM, 1),
    ("alan@example.com", "umbrella", 2),
    ("barbara@example.com", "teapot", 1),
    ("donald@example.com", "cookbook", 1),
    ("frances@example.com", "umbrella", 1),
    ("tony@example.com", "desk-lamp", 4),
)
POISONED_ID = 4
LEFT_FOR_VISITOR = ("you@example.com", "aquarium", 1)


class Story:
    """Tells and shows, on the screen, what the outbox does in a shop."""

    def __init__(self, screen: Screen, services: Services, pause: Callable[[float], None]) -> None:
        self._screen = screen
        self._services = services
        self._pause = pause
        self._shop = Shop(services.shop_url)

    def tell(self, *, stay: bool) -> None:
        self._introduce()
        self._start_everything()
        self._place_orders()
        self._see_the_poisoned_one_die()
        self._fix_and_retry()
        self._sum_up()
        if stay:
            self._stay_up()

    def _introduce(self) -> None:
        self._screen.heading("A shop with a transactional outbox")
        self._screen.say(
            "A shop saves an order and must tell others about it through Kafka. If it saves and "
            "then sends, a crash in between loses the news; if it sends and then saves, it may "
            "announce an order that never was. With an outbox it writes the news into its own "
            "database, in the same transaction as the order, and a relay carries it to Kafka from "
            "there. You are about to see that happen."
        )

    def _start_everything(self) -> None:
        services = self._services
        self._screen.heading("1. Starting the parts")
        self._screen.lines(
            f"database  SQLite, in {services.state_dir.shown}",
            f"broker    a small server with Kafka's protocol, on port {services.broker_port}",
            "relay     outbox_relay carries messages from the database to the broker",
            "consumer  outbox_consume hands them to the handlers of shipping and mail",
            "mailer    send_mails sends the e-mails that the handlers have queued, into files",
            f"shop      {services.shop_url} (open it to watch)",
        )
        services.start("broker", "outbox_devbroker", "--port", str(services.broker_port))
        services.run("migrate", "--verbosity", "0")
        self._wait_for(
            "The broker did not start.",
            lambda: answers(services.broker_port),
            seconds=20,
            look_at="broker",
        )
        # The topics first: a consumer that finds none would only look again after some seconds.
        services.run("outbox_relay", "--create-topics", "--drain")
        services.start("relay", "outbox_relay", "--create-topics")
        services.start("consumer", "outbox_consume")
        services.start("mailer", "send_mails", "--every", "0.5")
        services.start("shop", "runserver", "--noreload", services.shop_url[len("http://") : -1])
        services.run(
            "createsuperuser", "--noinput", "--username", "admin", "--email", "admin@example.com"
        )
        self._wait_for(
            "The shop's web server did not start.", self._shop.is_up, seconds=30, look_at="shop"
        )

    def _place_orders(self) -> None:
        self._screen.heading(f"2. Placing {len(ORDERS)} orders through the shop's form")
        self._screen.say(
            "Each one is saved together with its message order.created. pending: waits in the "
            "database. published: the broker has it. consumed: its handlers are done; shipping's "
            "publishes order.shipped in turn."
        )
        for customer, item, quantity in ORDERS:
            self._shop.place_order(customer, item, quantity)
            self._watch(PACE_SECONDS)

    def _see_the_poisoned_one_die(self) -> None:
        orders = self._wait_for_orders(
            "Not all orders were handled.",
            lambda orders: all(
                order.dead if order.id == POISONED_ID else order.done for order in orders
            ),
            seconds=40,
        )
        dead = _created(orders[POISONED_ID - 1])
        self._screen.finish_table()
        self._screen.heading("3. One message is dead")
        self._screen.say(
            f"Order {POISONED_ID} is for a grand piano, and shipping's table of weights has no "
            f"entry for it: the handler raises {dead.reason}, now and forever. After "
            f"{MAX_RETRY} failures (20 unless you set it; here it is to be quick) the message was "
            f"put aside as dead, with its reason. The other {len(orders) - 1} orders were not held "
            "up, and nothing half-done was left behind: no parcel, no e-mail."
        )

    def _fix_and_retry(self) -> None:
        dead = _created(self._shop.orders()[POISONED_ID - 1])
        self._screen.heading("4. Fixing the bug, then retrying the dead message")
        for command in (
            ("set_parcel_weight", POISONED_ITEM, "310000"),
            ("outbox_retry", "--id", str(dead.id)),
        ):
            self._screen.lines(f"$ {typed_command(*command)}")
            self._screen.lines(*self._services.run(*command).splitlines())
        orders = self._wait_for_orders(
            f"The retried message of order {POISONED_ID} was not handled.",
            lambda orders: all(order.done for order in orders),
            seconds=30,
        )
        self._screen.finish_table()
        self._screen.heading("5. Nothing lost, nothing half-done")
        self._screen.lines(*(summary(order) for order in orders))

    def _sum_up(self) -> None:
        services = self._services
        self._screen.say("")
        self._screen.say(f"That took {self._screen.elapsed:.0f} s. Where an operator would look:")
        self._screen.lines(
            f"admin         {services.shop_url}admin/   "
            f"(user admin, password {services.admin_password})",
            f"dead letters  {services.shop_url}admin/django_outbox/deadletter/",
            f"logs          {shown_path(services.state_dir.logs)}",
        )

    def _stay_up(self) -> None:
        """Leave a dead letter for the visitor to retry, and keep the shop open."""
        number = len(ORDERS) + 1
        self._screen.heading("6. Your turn")
        self._screen.say(
            f"Order {number}, an aquarium, has the same trouble and is left to you. Once it is "
            "dead: in the admin, add a parcel weight for the item aquarium (9000, say), then open "
            "the dead letters, select the message and run the action that retries it. Or retry it "
            "first and see it fail again. The table below and the shop's page follow."
        )
        self._screen.say("For commands in another terminal, first take over this run's settings:")
        self._screen.lines(
            f". {shown_path(self._services.state_dir.environment)}", typed_command("outbox_status")
        )
        self._screen.say("Ctrl-C stops everything.")
        self._shop.place_order(*LEFT_FOR_VISITOR)
        try:
            while True:
                self._watch(1)
        except Stopped:
            self._screen.finish_table()

    def _watch(self, seconds: float) -> list[Order]:
        """Keep the table up to date for a while."""
        until = time.monotonic() + seconds
        while True:
            self._services.check()
            orders = self._shop.orders()
            self._screen.show(orders)
            if time.monotonic() >= until:
                return orders
            self._pause(POLL_SECONDS)

    def _wait_for_orders(
        self, problem: str, condition: Callable[[list[Order]], bool], *, seconds: float
    ) -> list[Order]:
        deadline = time.monotonic() + seconds
        while True:
            orders = self._watch(0)
            if condition(orders):
                return orders
            if time.monotonic() > deadline:
                unfinished = [summary(order) for order in orders if not order.done]
                raise DemoFailed(
                    "\n".join([f"{problem} Waited {seconds:.0f} s for:", *unfinished]),
                    look_at=("relay", "consumer", "mailer"),
                )
            self._pause(POLL_SECONDS)

    def _wait_for(
        self, problem: str, condition: Callable[[], bool], *, seconds: float, look_at: str
    ) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            self._services.check()
            if time.monotonic() > deadline:
                raise DemoFailed(f"{problem} Waited {seconds:.0f} s.", look_at=(look_at,))
            self._pause(POLL_SECONDS / 2)


def _created(order: Order) -> Message:
    message = order.message("order.created")
    if message is None:
        raise DemoFailed(f"Order {order.id} has no message order.created.", look_at=("shop",))
    return message
