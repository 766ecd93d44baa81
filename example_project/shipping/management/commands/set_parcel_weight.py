"""Management command that tells shipping what an item weighs."""

from argparse import ArgumentParser

from django.core.management.base import BaseCommand, CommandError

from shipping.models import ParcelWeight


class Command(BaseCommand):
    help = "Tell shipping what one packed item weighs, in grams."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("item", help="for example: grand-piano")
        parser.add_argument("grams", type=int)

    def handle(self, *, item: str, grams: int, **options: object) -> None:
        if grams <= 0:
            raise CommandError(f"A parcel weighs more than {grams} g.")
        ParcelWeight.objects.update_or_create(item=item, defaults={"grams": grams})
        self.stdout.write(f"One {item} weighs {grams} g.")
