"""Send the queued e-mails.

Sending cannot be undone, so no database transaction can cover it. Two orders are possible: mark
and then send loses the e-mail if the process dies in between; send and then mark sends it twice.
This module chooses the second, at-least-once. Both copies carry the same Message-ID, made from the
event's id, by which the receiving side can tell that they are one.
"""

from django.core.mail import EmailMessage
from django.db import transaction
from django.utils import timezone

from .models import Mail


def send_queued() -> int:
    """Send every queued e-mail, one transaction each, and return how many."""
    sent = 0
    # Looked up outside of a transaction, so that an idle sender takes no lock.
    for pk in Mail.objects.filter(sent_at=None).order_by("pk").values_list("pk", flat=True):
        sent += _send(pk)
    return sent


@transaction.atomic
def _send(pk: int) -> bool:
    """Send one e-mail unless another sender has it in hand or was faster."""
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
