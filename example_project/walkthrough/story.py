"""The demo's steps, in order."""

import json
import time
from collections.abc import Callable

from .errors import DemoFailed, Stopped
from .ports import answers
from .screen import Screen
from .services import MAX_RETRY, WAREHOUSE, Services, typed_command
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
CUSTOMERS = [customer for customer, _, _ in ORDERS]
POISONED_CUSTOMER = next(customer for customer, item, _ in ORDERS if item == POISONED_ITEM)
LEFT_FOR_VISITOR = ("visitor@example.com", "aquarium", 1)


class Story:
    """Shows on the screen what the outbox does in a shop."""

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
        self._look_at_the_warehouse()
        self._sum_up()
        if stay:
            self._stay_up()
        else:
            self._screen.heading("Stopping everything, as this is not a terminal. In a terminal, the shop stays up.")

    def _introduce(self) -> None:
        self._screen.heading("A shop with a transactional outbox")
        self._screen.say(
            "A shop saves an order and announces it through Kafka. If it saves first, a crash before "
            "sending loses the message. If it sends first, it may announce an order that is never "
            "saved. With an outbox, it writes the message into its own database, in the same "
            "transaction as the order, and a relay sends it to Kafka. Here is how that looks."
        )

    def _start_everything(self) -> None:
        services = self._services
        self._screen.heading("1. Starting the services")
        self._screen.lines(
            f"database  SQLite, in {services.state_dir.shown}",
            f"broker    Tansu, which speaks Kafka's protocol, on port {services.broker_port}",
            "relay     outbox_relay sends messages from the database to the broker",
            "consumer  outbox_consume runs the handlers of shipping and mail",
            "warehouse outbox_consume of another project with its own database",
            "mailer    send_mails writes the e-mails that handlers queue to files",
            f"shop      {services.shop_url} (open it to watch)",
        )
        services.start("broker", "outbox_devbroker", "--port", str(services.broker_port))
        services.run("migrate", "--verbosity", "0")
        services.run("migrate", "--verbosity", "0", settings=WAREHOUSE)
        self._wait_for("The broker did not start.", lambda: answers(services.broker_port), seconds=20, look_at="broker")
        # Topics first: a consumer that finds none checks again only after some seconds.
        services.run("outbox_relay", "--create-topics", "--drain")
        services.start("relay", "outbox_relay", "--create-topics")
        services.start("consumer", "outbox_consume")
        services.start("warehouse", "outbox_consume", "--topics", "shop.orders", settings=WAREHOUSE)
        services.start("mailer", "send_mails", "--every", "0.5")
        services.start("shop", "runserver", "--noreload", services.shop_url[len("http://") : -1])
        services.run("createsuperuser", "--noinput", "--username", "admin", "--email", "admin@example.com")
        self._wait_for("The shop's web server did not start.", self._shop.is_up, seconds=30, look_at="shop")

    def _place_orders(self) -> None:
        self._screen.heading(f"2. Placing {len(ORDERS)} orders through the shop's form")
        self._screen.say(
            "Each order is saved in one transaction with a message, order.created. Shipping handles "
            "it and publishes order.shipped. The customer gets an e-mail for both. A message is"
        )
        self._screen.lines(
            "pending    stored in the database, waiting for the relay",
            "published  sent to the broker, waiting for its handlers",
            "consumed   handled; the handlers and this status commit together",
            "dead       failed too often, waiting for an operator",
        )
        for customer, item, quantity in ORDERS:
            self._shop.place_order(customer, item, quantity)
            self._watch(PACE_SECONDS)

    def _see_the_poisoned_one_die(self) -> None:
        orders = self._wait_for_orders(
            "Not all orders were handled.",
            lambda order: order.dead if order.customer == POISONED_CUSTOMER else order.done,
            seconds=40,
        )
        poisoned = _poisoned(orders)
        self._screen.finish_table()
        self._screen.heading("3. One message is dead")
        self._screen.say(
            f"Order {poisoned.id} is for a grand piano, and shipping does not know its weight: the "
            f"handler raises {_created(poisoned).reason} every time. After {MAX_RETRY} failures (the "
            "default is 20), the message became dead, and its reason was recorded. The other "
            f"{len(orders) - 1} orders were not delayed. The failed attempts left neither a parcel "
            "nor an e-mail."
        )

    def _fix_and_retry(self) -> None:
        dead = _created(_poisoned(self._shop.orders()))
        self._screen.heading("4. Fixing the bug and retrying the dead message")
        for command in (("set_parcel_weight", POISONED_ITEM, "310000"), ("outbox_retry", "--id", str(dead.id))):
            self._screen.lines(f"$ {typed_command(*command)}")
            self._screen.lines(*self._services.run(*command).splitlines())
        orders = self._wait_for_orders("The retried message was not handled.", lambda order: order.done, seconds=30)
        self._screen.finish_table()
        self._screen.heading("5. Every message is consumed")
        count = sum(len(order.messages) for order in orders)
        self._screen.say(
            f"All {len(orders)} orders are shipped, the e-mails are sent, and all {count} messages are consumed."
        )
        self._screen.details(summary(order) for order in orders)

    def _look_at_the_warehouse(self) -> None:
        def picked() -> bool:
            status = self._services.run("outbox_status", "--json", settings=WAREHOUSE)
            return bool(json.loads(status)["inbox"]["consumed"] == len(ORDERS))

        self._wait_for("The warehouse did not receive all orders.", picked, seconds=30, look_at="warehouse")
        self._screen.say(
            f"The warehouse, a separate project, reads the same topic. Its inbox stored {len(ORDERS)} events and "
            "handled each once. It skipped the message that the shop sent again as a duplicate."
        )

    def _sum_up(self) -> None:
        services = self._services
        self._screen.heading(f"Done in {self._screen.elapsed:.0f} s. Where to look next")
        self._screen.lines(
            f"admin         {services.shop_url}admin/   (user admin, password {services.admin_password})",
            f"dead letters  {services.shop_url}admin/django_outbox/deadletter/",
            f"logs          {shown_path(services.state_dir.logs)}",
        )

    def _stay_up(self) -> None:
        """Leave a dead letter for the visitor to retry, and keep the shop up."""
        self._screen.heading("6. Your turn")
        self._screen.say(
            "One more order, for an aquarium, has the same bug. Once its message is dead, open the "
            "admin and add a parcel weight for the item aquarium, such as 9000. Then open the dead "
            "letters, select the message and run the retry action. If you retry first, it fails "
            "again. The shop's page and the table below update themselves."
        )
        self._screen.say("To run commands in another terminal, load this run's settings first:")
        self._screen.lines(f". {shown_path(self._services.state_dir.environment)}", typed_command("outbox_status"))
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

    def _wait_for_orders(self, problem: str, condition: Callable[[Order], bool], *, seconds: float) -> list[Order]:
        """Wait until the condition holds for the demo's own orders; visitors may place others."""
        deadline = time.monotonic() + seconds
        while True:
            orders = [order for order in self._watch(0) if order.customer in CUSTOMERS]
            unfinished = [summary(order) for order in orders if not condition(order)]
            if not unfinished:
                return orders
            if time.monotonic() > deadline:
                raise DemoFailed(
                    "\n".join([f"{problem} Still waiting after {seconds:.0f} s:", *unfinished]),
                    look_at=("relay", "consumer", "mailer"),
                )
            self._pause(POLL_SECONDS)

    def _wait_for(self, problem: str, condition: Callable[[], bool], *, seconds: float, look_at: str) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            self._services.check()
            if time.monotonic() > deadline:
                raise DemoFailed(f"{problem} Waited {seconds:.0f} s.", look_at=(look_at,))
            self._pause(POLL_SECONDS / 2)


def _poisoned(orders: list[Order]) -> Order:
    return next(order for order in orders if order.customer == POISONED_CUSTOMER)


def _created(order: Order) -> Message:
    message = order.message("order.created")
    if message is None:
        raise DemoFailed(f"Order {order.id} has no message order.created.", look_at=("shop",))
    return message
