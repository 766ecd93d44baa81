from django.db import models


class Effect(models.Model):
    """What a handler did, once per row: the tests count them."""

    name = models.CharField(max_length=100)
    event_id = models.CharField(max_length=100)
    created_at = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return f"{self.name} of {self.event_id}"
