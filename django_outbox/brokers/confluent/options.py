"""The options of librdkafka that a project may set, checked before any client gets them.

The check is librdkafka's own: a client without servers accepts or refuses an option at once, without touching a file or
the network.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from confluent_kafka import Consumer, KafkaException, Producer
from django.core.exceptions import ImproperlyConfigured

from django_outbox.brokers.secrets import Secret
from django_outbox.brokers.tls import TLS

_GUARANTEE = "the delivery guarantees depend on the outbox's own value"
_OWN = "the outbox sets its own"
_RESERVED = {
    **dict.fromkeys(("bootstrap.servers", "metadata.broker.list"), "the hosts come from the URL"),
    **dict.fromkeys(("error_cb", "logger", "log_cb", "log.queue", "enabled_events", "opaque"), _OWN),
    **dict.fromkeys(("on_commit", "rebalance_cb", "consume_cb", "offset_commit_cb"), _OWN),
    **dict.fromkeys(("acks", "request.required.acks", "enable.idempotence", "transactional.id"), _GUARANTEE),
    **dict.fromkeys(("delivery.report.only.error", "dr_cb", "dr_msg_cb", "on_delivery"), _GUARANTEE),
    **dict.fromkeys(("produce.offset.report", "allow.auto.create.topics", "auto.offset.reset"), _GUARANTEE),
    **dict.fromkeys(("auto.commit.enable", "enable.auto.commit", "auto.commit.interval.ms"), _GUARANTEE),
    **dict.fromkeys(("enable.auto.offset.store", "offset.store.method", "offset.store.path"), _GUARANTEE),
    **dict.fromkeys(("enable.partition.eof", "group.id", "socket.send.buffer.bytes"), _GUARANTEE),
    "group.protocol": "all members of a group must use the same, whatever their backend",
    "default.topic.config": "name its options one by one",  # it could set any of the above
}
# Reserved because it marks the sockets of producers.
_ALLOWED = ("CONSUMER_OPTIONS", "socket.send.buffer.bytes")

# Names in kafka-python that differ in more than underscores for dots: a project may change its backend without its URL.
_NAMES_IN_URL = {
    "fetch_max_wait_ms": "fetch.wait.max.ms",
    "log_level": "log_level",
    "max_request_size": "message.max.bytes",
    "receive_buffer_bytes": "socket.receive.buffer.bytes",
    "sasl_plain_password": "sasl.password",
    "sasl_plain_username": "sasl.username",
    "send_buffer_bytes": "socket.send.buffer.bytes",
    "ssl_cafile": "ssl.ca.location",
    "ssl_certfile": "ssl.certificate.location",
    "ssl_check_hostname": "ssl.endpoint.identification.algorithm",
    "ssl_ciphers": "ssl.cipher.suites",
    "ssl_crlfile": "ssl.crl.location",
    "ssl_keyfile": "ssl.key.location",
    "ssl_password": "ssl.key.password",
}
_HOSTNAME_CHECKS = {
    **dict.fromkeys(("true", "yes", "on", "1"), "https"),
    **dict.fromkeys(("false", "no", "off", "0"), "none"),
}
_TLS_NAMES = {name: _NAMES_IN_URL[f"ssl_{name}"] for name in ("cafile", "certfile", "keyfile", "password")}
_OTHER_TLS = (
    "ssl.ca.pem",
    "ssl.ca.certificate.stores",
    "ssl.certificate.pem",
    "ssl.engine.location",
    "ssl.key.pem",
    "ssl.keystore.location",
    "ssl.providers",
)
_SECRET = (".password", ".username", ".secret", ".key.pem")


def checked(key: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The checked options of one key, whose query in ``URL`` also takes kafka-python's names; see ``ClusterBroker``."""
    checked_options: dict[str, Any] = {}
    for name, value in options.items():
        its_name = library_name(name) if key == "URL" else name
        if key == "URL" and name == "ssl_check_hostname":
            value = _HOSTNAME_CHECKS.get(value.lower(), value)
        if its_name in _RESERVED and (key, its_name) != _ALLOWED:
            raise _wrong(f"must not set {name!r}: {_RESERVED[its_name]}", key)
        _try(key, name, its_name, value)
        is_secret = isinstance(value, str) and its_name.endswith(_SECRET)
        checked_options[its_name] = Secret(value) if is_secret else value
    return checked_options


def tls_files(options: Mapping[str, Any]) -> TLS:
    """The TLS files that the options name."""
    files = {name: options.get(theirs) or None for name, theirs in _TLS_NAMES.items()}
    if files["cafile"] == "probe":  # the library's word for the system's
        files["cafile"] = None
    return TLS(
        **files,
        checks_name=options.get("ssl.endpoint.identification.algorithm") != "none",
        checks=str(options.get("enable.ssl.certificate.verification", True)).lower() not in ("false", "0"),
        complete=not any(options.get(name) for name in _OTHER_TLS),
        names={name: f"ssl_{name} ({theirs})" for name, theirs in _TLS_NAMES.items()},
    )


def library_name(name: str) -> str:
    """librdkafka's name of an option of kafka-python."""
    return _NAMES_IN_URL.get(name) or name.replace("_", ".")


def _try(key: str, name: str, its_name: str, value: Any) -> None:
    """Raise if librdkafka refuses an option."""
    if not (value is None or callable(value) or isinstance(value, str | int | float)):
        raise _wrong(f"has an option whose value is not text, a number, True or False: {name!r}", key)
    remarks = _Remarks()
    client: Consumer | Producer
    try:
        if key == "CONSUMER_OPTIONS":
            client = Consumer({"group.id": "probe", its_name: value}, logger=remarks)
        else:
            client = Producer({its_name: value}, logger=remarks)
        client.poll(0)
        client.close()
    except (KafkaException, TypeError, ValueError) as error:
        if "Failed to create" in str(error):  # it may need other options, too: an error shows when they are used
            return
        # Without the cause, whose text may show the value.
        raise _judged(key, name, str(error)) from None
    is_ignored = any("and will be ignored by this" in text for text in remarks.texts)
    if is_ignored and key in ("PRODUCER_OPTIONS", "CONSUMER_OPTIONS"):
        other = "PRODUCER_OPTIONS" if key == "CONSUMER_OPTIONS" else "CONSUMER_OPTIONS"
        raise _wrong(f'has an option that belongs in OUTBOX["BROKER"]["{other}"]: {name!r}', key)


def _judged(key: str, name: str, text: str) -> ImproperlyConfigured:
    if "No such configuration property" not in text:
        return _wrong(f"has an option whose value librdkafka does not accept: {name!r}", key)
    known_as = library_name(name) if key != "URL" and isinstance(name, str) else name
    hint = f" (its names are like {known_as!r})" if known_as != name else ""
    return _wrong(f"has an option that librdkafka does not know: {name!r}{hint}", key)


def _wrong(text: str, key: str) -> ImproperlyConfigured:
    return ImproperlyConfigured(f'OUTBOX["BROKER"]["{key}"] {text}.')


class _Remarks:
    """A logger that keeps librdkafka's remarks on its options to itself."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def log(self, level: int, text: str, *arguments: object) -> None:
        self.texts.append(text % arguments)
