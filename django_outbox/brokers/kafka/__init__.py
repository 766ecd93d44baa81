import warnings

with warnings.catch_warnings():
    # At import, kafka-python reads its message schemas with a function that Python 3.11 and 3.12 deprecate.
    warnings.filterwarnings("ignore", r"(read|open)_text is deprecated", DeprecationWarning)
    from django_outbox.brokers.kafka.broker import KafkaBroker

__all__ = ["KafkaBroker"]
