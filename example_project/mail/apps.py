"""App configuration of the shop's e-mails."""

from django.apps import AppConfig


class MailConfig(AppConfig):
    name = "mail"
