import os

from django.apps import AppConfig


class TestsAppConfig(AppConfig):
    name = "tests.support.app"
    label = "tests_app"

    def ready(self) -> None:
        if traces := os.environ.get("TESTS_TRACES"):
            from tests.support.app.traces import record_to

            record_to(traces)
