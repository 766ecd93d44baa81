"""Use the shop as a browser does: read the page, send the form, read the list of orders."""

import http.cookiejar
import json
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass

from .errors import DemoFailed

SECONDS = 10


@dataclass(frozen=True, slots=True)
class Message:
    """One message of an order, as the shop shows it."""

    id: int
    type: str
    status: str
    retry_count: int
    max_retry: int
    last_error: str

    @property
    def reason(self) -> str:
        """The error without its traceback."""
        return self.last_error.partition("\n")[0].strip()


@dataclass(frozen=True, slots=True)
class Order:
    """One order with its messages, as the shop shows it."""

    id: int
    customer: str
    item: str
    quantity: int
    mails_sent: int
    messages: tuple[Message, ...]

    @property
    def label(self) -> str:
        return f"{self.quantity} x {self.item}"

    @property
    def dead(self) -> bool:
        return any(message.status == "dead" for message in self.messages)

    @property
    def done(self) -> bool:
        """Shipped, and both e-mails sent."""
        consumed = [message.type for message in self.messages if message.status == "consumed"]
        return consumed == ["order.created", "order.shipped"] and self.mails_sent == 2

    def message(self, event_type: str) -> Message | None:
        return next((message for message in self.messages if message.type == event_type), None)


class Shop:
    """The shop at an address."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._cookies = http.cookiejar.CookieJar()
        # Connect directly and ignore proxies in the environment.
        self._opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPCookieProcessor(self._cookies)
        )

    def is_up(self) -> bool:
        """Whether the web server answers, even with an error."""
        try:
            self._get("orders.json")
        except DemoFailed as failure:
            return isinstance(failure.__cause__, urllib.error.HTTPError)
        return True

    def place_order(self, customer: str, item: str, quantity: int) -> None:
        """Send the order form."""
        self._get("")
        token = next(cookie.value for cookie in self._cookies if cookie.name == "csrftoken")
        fields = {"csrfmiddlewaretoken": token, "customer": customer, "item": item, "quantity": quantity}
        self._get("", urllib.parse.urlencode(fields).encode())

    def orders(self) -> list[Order]:
        """All orders, oldest first."""
        return parse_orders(self._get("orders.json"))

    def _get(self, path: str, data: bytes | None = None) -> bytes:
        try:
            with self._opener.open(self._url + path, data, timeout=SECONDS) as response:
                content: bytes = response.read()
                return content
        except OSError as error:
            message = f"The request to {self._url}{path} failed: {error}."
            raise DemoFailed(message, look_at=("shop",)) from error


def parse_orders(text: bytes | str) -> list[Order]:
    """Read the shop's list of orders."""
    orders = [
        Order(
            id=order["id"],
            customer=order["customer"],
            item=order["item"],
            quantity=order["quantity"],
            mails_sent=order["mails_sent"],
            messages=tuple(Message(**message) for message in order["messages"]),
        )
        for order in json.loads(text)["orders"]
    ]
    return sorted(orders, key=lambda order: order.id)
