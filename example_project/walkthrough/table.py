"""Format the orders and their messages as lines of text."""

from collections.abc import Iterator, Sequence

from .shop import Message, Order

TYPES = ("order.created", "order.shipped")
COLOURS = {"pending": "33", "published": "36", "consumed": "32", "dead": "31"}
WIDTHS = (6, 18, 26, 16, 8)
WIDTH = sum(WIDTHS)
INDENT = " " * (WIDTHS[0] + WIDTHS[1])


def table(orders: Sequence[Order], *, width: int, height: int, colour: bool) -> list[str]:
    """A header and the newest orders that fit, each on one or two lines."""
    shown: list[str] = []
    for order in reversed(orders):
        lines = list(_order_lines(order, width, colour))
        if len(shown) + len(lines) >= height:
            break
        shown = lines + shown
    cells = ("order", "", *TYPES, "e-mails")
    return [_paint("".join(_padded(cells)).rstrip(), "1", colour), *shown]


def changes(before: Sequence[Order], after: Sequence[Order]) -> list[str]:
    """The changes between two lists of orders, one line each."""
    known = {order.id: order for order in before}
    lines: list[str] = []
    for order in after:
        old = known.get(order.id)
        for message in order.messages:
            earlier = old.message(message.type) if old else None
            if earlier is None or _mark(earlier) != _mark(message):
                way = f"{earlier.status} -> " if earlier else ""
                lines.append(
                    f"order {order.id} ({order.label}): {message.type} {way}{_state(message)}"
                    + (f": {message.reason}" if _failed(message) else "")
                )
        if order.mails_sent != (old.mails_sent if old else 0):
            lines.append(f"order {order.id} ({order.label}): {_mails(order)}")
    return lines


def summary(order: Order) -> str:
    """The order and its messages' states in one line."""
    states = [f"{message.type} {message.status}" for message in order.messages]
    return f"order {order.id} ({order.label}): {', '.join([*states, _mails(order)])}"


def _order_lines(order: Order, width: int, colour: bool) -> Iterator[str]:
    messages = [order.message(event_type) for event_type in TYPES]
    states = [_state(message) if message else "-" for message in messages]
    cells = [f"{order.id:>5} ", order.label, *states, str(order.mails_sent or "-")]
    padded = _padded(cells)
    for at, message in enumerate(messages, start=2):
        if message:
            padded[at] = _paint(padded[at], COLOURS.get(message.status, "0"), colour)
    yield "".join(padded).rstrip()
    for message in messages:
        if message and _failed(message):
            yield _paint(f"{INDENT}{message.reason}"[: width - 1], COLOURS["dead"], colour)


def _padded(cells: Sequence[str]) -> list[str]:
    return [f"{cell:<{size}}" for cell, size in zip(cells, WIDTHS, strict=True)]


def _state(message: Message) -> str:
    if _failed(message):
        return f"{message.status}, failed {message.retry_count} of {message.max_retry}"
    return message.status


def _failed(message: Message) -> bool:
    return message.retry_count > 0 and message.status in ("pending", "dead")


def _mark(message: Message) -> tuple[str, int]:
    return message.status, message.retry_count


def _mails(order: Order) -> str:
    return "1 e-mail sent" if order.mails_sent == 1 else f"{order.mails_sent} e-mails sent"


def _paint(text: str, code: str, colour: bool) -> str:
    return f"\x1b[{code}m{text}\x1b[0m" if colour else text
