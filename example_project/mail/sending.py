"""Send the queued e-mails, at least once.

A database transaction cannot undo sending. If the process dies in between, marking first loses the e-mail, and sending
first sends it twice. This module sends first. Both copies have the same Message-ID, made from the event's id, so that the
receiving side can recognize the duplicate.
"""

from django.core.mail import EmailMessage
from django.db import transaction
from django.utils import timezone

from .models import Mail


def send_queued() -> int:
    """Send each queued e-mail in its own transaction; returns their number."""
    sent = 0
    # Queried outside a transaction, so that an idle sender takes no lock.
    for pk in Mail.objects.filter(sent_at=None).order_by("pk").values_list("pk", flat=True):
        sent += _send(pk)
    return sent


@transaction.atomic
def _send(pk: int) -> bool:
    """Send one e-mail, unless another sender has locked or sent it."""
    mail = Mail.objects.select_for_update(skip_locked=True).filter(pk=pk, sent_at=None).first()
    if mail is None:
        return False
    EmailMessage(
        subject=mail.subject,
        body=mail.body,
        from_email="shop@example.com",
        to=[mail.recipient],
        headers={"Message-ID": f"<{mail.event_id}@shop.example.com>"},
    ).send()
    mail.sent_at = timezone.now()
    mail.save(update_fields=["sent_at"])
    return True
