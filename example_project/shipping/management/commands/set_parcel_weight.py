"""Management command that sets the weight of an item."""

from argparse import ArgumentParser

from django.core.management.base import BaseCommand, CommandError

from shipping.models import ParcelWeight


class Command(BaseCommand):
    help = "Set the weight of one packed item, in grams."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("item", help="for example: grand-piano")
        parser.add_argument("grams", type=int)

    def handle(self, *, item: str, grams: int, **options: object) -> None:
        if grams <= 0:
            raise CommandError(f"grams must be greater than 0, got {grams}.")
        ParcelWeight.objects.update_or_create(item=item, defaults={"grams": grams})
        self.stdout.write(f"One {item} weighs {grams} g.")
