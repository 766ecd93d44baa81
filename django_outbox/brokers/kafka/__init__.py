from django_outbox.brokers.kafka.broker import KafkaBroker

__all__ = ["KafkaBroker"]
