"""Who is logged in."""

from __future__ import annotations

from typing import Any

import pytest
from django.test import Client


@pytest.fixture
def login(client: Client, django_user_model: Any) -> Any:
    """Log in as staff who may view the lists of the outbox, or another table, and has these permissions more."""
    from django.contrib.auth.models import Permission

    def login(*more: str, table: str = "outboxmessage", dead: str = "deadletter") -> Client:
        user = django_user_model.objects.create_user("staff", is_staff=True)
        names = [f"view_{table}", f"view_{dead}", *(f"{action}_{table}" for action in more)]
        permissions = Permission.objects.filter(content_type__app_label="django_outbox", codename__in=names)
        assert len(permissions) == len(names)
        user.user_permissions.set(permissions)
        client.force_login(user)
        return client

    return login
