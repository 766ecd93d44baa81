"""The outage of a schema registry: who may ask it again and when, and the log lines about it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count

from django_outbox.exceptions import RegistryUnavailable, SchemaNotFound

log = logging.getLogger("django_outbox.serializers")

BACKOFF_SECONDS = (0.5, 30.0)
RELAPSE_SECONDS = 5.0  # the backoff of an outage that returns so soon continues
REMINDER_SECONDS = 60.0
SLOW_SECONDS = 0.8
"""Others do not wait for a registry that has left a request without an answer for so long."""
LEAST_SECONDS = 1.0
"""How long a message waits at least, as meanwhile somebody asks."""
_LONGEST_REQUEST = 60.0
_FORGET_SECONDS = 120.0  # when nobody has needed the registry for so long, nothing waits for it

_outages: list[Outage] = []


def registry_trouble() -> str:
    """Why messages of this process wait for schema registries; empty if none does."""
    return " ".join(filter(None, [outage.trouble() for outage in tuple(_outages)]))


class Outage:
    """Whether a registry can be asked now. All threads share it.

    After a failure, it is not asked for a while, which doubles up to half a minute. Then one request tries it again, and
    the others wait for its result.
    """

    def __init__(self, url: str, clock: Callable[[], float]) -> None:
        self._url = url
        self._clock = clock
        self._lock = threading.Lock()  # for what follows
        self._numbers = count()
        self._asking: dict[int, float] = {}  # when requests began that have no answer yet
        self._reason = ""  # empty while the registry answers
        self._failures = 0
        self._retry_at = 0.0
        self._began_at = self._failed_at = self._ended_at = self._logged_at = self._needed_at = float("-inf")
        _outages.append(self)

    def close(self) -> None:
        """Nothing waits for the registry any more."""
        if self in _outages:
            _outages.remove(self)

    @property
    def is_retry_due(self) -> bool:
        """True during an outage if the registry should be asked again."""
        return bool(self._reason) and self._clock() >= self._retry_at

    def fault(self) -> RegistryUnavailable | None:
        """Return why nobody should wait for the registry now, with the time of the next try; None if it answers."""
        with self._lock:
            now = self._needed_at = self._clock()
            # A thread that asked may have been lost in a fork.
            slow = max((now - at for at in self._asking.values() if now - at < _LONGEST_REQUEST), default=None)
            if self._reason:
                seconds = self._retry_at - now if slow is None else 0.0
                return RegistryUnavailable(self._reason, max(seconds, LEAST_SECONDS))
            if slow is not None and slow >= SLOW_SECONDS:
                return RegistryUnavailable(f"{self._url} has not answered for {slow:.0f} s.", LEAST_SECONDS)
            return None

    def trouble(self) -> str:
        """Return a sentence if messages wait for the registry, else nothing."""
        with self._lock:
            is_needed = bool(self._reason) and self._clock() < self._needed_at + _FORGET_SECONDS
            return f"The schema registry {self._reason} Messages whose schema is not loaded wait." if is_needed else ""

    @contextmanager
    def asking(self) -> Iterator[None]:
        """Ask the registry within the block, which raises nothing but ``RegistryUnavailable`` and ``SchemaNotFound``.

        Raises:
            RegistryUnavailable: it is not time to ask, or it cannot be asked.
        """
        number = next(self._numbers)
        with self._lock:
            began_at = self._clock()
            if self._reason:
                if began_at < self._retry_at:
                    raise RegistryUnavailable(self._reason, self._retry_at - began_at)
                self._retry_at = began_at + BACKOFF_SECONDS[1]  # for the others; the result of this request changes it
            self._asking[number] = began_at
        try:
            yield
        except RegistryUnavailable as error:
            error.retry_after = self._begin(str(error), began_at)
            raise
        except SchemaNotFound:  # an answer
            self._end()
            raise
        else:
            self._end()
        finally:
            with self._lock:
                del self._asking[number]

    def _begin(self, reason: str, asked_at: float) -> float:
        """The outage begins or continues; returns the seconds to wait before the next request."""
        with self._lock:
            now = self._clock()
            if self._reason and asked_at <= self._failed_at:  # requests that fail together are one failure
                return max(self._retry_at - now, 0.0)
            is_new = not self._reason
            if is_new and now - self._ended_at >= RELAPSE_SECONDS:
                self._failures = 0
            if is_new:
                self._began_at = now
            self._reason, self._failed_at = reason, now
            first, longest = BACKOFF_SECONDS
            delay = min(first * 2.0 ** min(self._failures, 16), longest)
            self._failures += 1
            self._retry_at = now + delay
            if not is_new and now < self._logged_at + REMINDER_SECONDS:
                return delay
            self._logged_at = now
            extra = {"action": "trouble"}
            if is_new:
                text = "The schema registry %s Messages whose schema is not loaded wait; loaded schemas stay in use."
                log.error(text, reason, extra=extra)
            else:
                text = "The schema registry is still unavailable after %.0f s: %s"
                log.error(text, now - self._began_at, reason, extra=extra)
            return delay

    def _end(self) -> None:
        with self._lock:
            if not self._reason:
                return
            self._reason, self._ended_at = "", self._clock()
            text = "The schema registry %s is available again after %.0f s."
            log.info(text, self._url, self._ended_at - self._began_at, extra={"action": "recovered"})
