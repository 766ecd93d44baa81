"""E-mails that the shop sends."""

from django.db import models


class Mail(models.Model):
    """An e-mail, queued by a handler and sent by `send_mails`."""

    order = models.ForeignKey("orders.Order", on_delete=models.CASCADE, related_name="mails")
    event_id = models.UUIDField(unique=True)
    recipient = models.EmailField()
    subject = models.CharField(max_length=200)
    body = models.TextField()
    created_at = models.DateTimeField(auto_now_add=True)
    sent_at = models.DateTimeField(null=True, editable=False)

    class Meta:
        verbose_name = "e-mail"

    def __str__(self) -> str:
        return f"{self.subject} to {self.recipient}"
