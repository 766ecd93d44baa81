from django_outbox.brokers.confluent.broker import ConfluentBroker

__all__ = ["ConfluentBroker"]
