"""How clients connect to a cluster, for errors that say why one could not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from django_outbox.brokers.diagnosis import answering, diagnose
from django_outbox.brokers.tls import TLS
from django_outbox.brokers.url import BrokerURL
from django_outbox.exceptions import BrokerUnavailable, NoAnswer

# A caller with less time than this must not wait, for example because it holds row locks.
WORTH_EXPLAINING_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Access:
    """A cluster's servers and how they are reached.

    Attributes:
        url: names the servers.
        protocol: Kafka's ``security.protocol``.
        tls: what the client uses for TLS.
        interrupted: true once the process is stopping; then nothing is examined.
    """

    url: BrokerURL
    protocol: str
    tls: TLS
    interrupted: Callable[[], bool]

    @property
    def location(self) -> str:
        return self.url.location

    def answering(self) -> list[str]:
        """Which of several servers answer now, after at most two seconds; a single server is not asked."""
        return answering(self.url.hosts, self.protocol, self.tls, self.interrupted)

    def unavailable(self, reason: str, *, seconds: float, may_explain: bool) -> BrokerUnavailable:
        """The error for a question without an answer.

        Args:
            reason: what the library says.
            seconds: how long the question had.
            may_explain: whether something is there that does not let the client in.
        """
        if seconds < WORTH_EXPLAINING_SECONDS:
            return NoAnswer(self._unreachable(reason, []))
        if may_explain and not self.interrupted():
            finding = diagnose(self.url.hosts, self.protocol, self.tls, self.interrupted)
            if finding is not None:
                return BrokerUnavailable(f"{self.location} {finding}.")
        answer = self.answering()
        return NoAnswer(self._unreachable(reason, answer), answer)

    def _unreachable(self, reason: str, answer: list[str]) -> str:
        silent = [host for host in self.url.hosts if host not in answer]
        if not silent:
            return f"{self.location} did not answer in time ({reason}), although all its brokers can be reached."
        if answer:
            return f"{', '.join(silent)} cannot be reached ({reason}); of {self.location}, {', '.join(answer)} can."
        login = ", with its user and password" if self.url.username is not None else ""
        return (
            f'{self.location} cannot be reached ({reason}): is it running, and is OUTBOX["BROKER"]["URL"] right{login}?'
        )
