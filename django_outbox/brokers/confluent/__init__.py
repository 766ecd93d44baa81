from django_outbox.exceptions import MissingDependency

try:
    from django_outbox.brokers.confluent.broker import ConfluentBroker
except ModuleNotFoundError as error:
    if error.name is None or error.name.partition(".")[0] != "confluent_kafka":
        raise
    raise MissingDependency(
        'OUTBOX["BROKER"]["BACKEND"] names the backend of confluent-kafka, which is not installed. '
        "Run: pip install 'django-kafka-outbox[confluent]'"
    ) from error

__all__ = ["ConfluentBroker"]
