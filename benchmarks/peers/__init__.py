"""django-kafka-outbox beside other packages for Django with an outbox, each in a virtual environment of its own."""
