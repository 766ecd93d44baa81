"""Tasks of Django's Tasks framework, run by real processes that are killed."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

from django.db import transaction

from tests.support.app.models import Effect
from tests.support.processes import Command, wait_until

Start = Callable[..., Command]

if find_spec("django.tasks") is not None:  # not in Django 5.2
    from django.tasks import TaskResultStatus

    def test_tasks_whose_consumer_is_killed_have_one_effect_and_a_result(
        relay: Start, consumer: Start, counts: Any, consumed: Any, settings: Any
    ) -> None:
        topic = settings.OUTBOX["TOPIC"]
        settings.TASKS = {
            "default": {
                "BACKEND": "django_outbox.tasks.OutboxBackend",
                "QUEUES": ["default", "slow"],
            }
        }
        task_topics = {"slow": f"{topic}-slow"}
        settings.OUTBOX = {**settings.OUTBOX, "TASK_TOPICS": task_topics}
        from tests.support.app import tasks

        queues = {queue: tasks.add.using(queue_name=queue) for queue in ("default", "slow")}
        number = 60
        with transaction.atomic():
            results = [queues["slow" if n % 2 else "default"].enqueue(n, second=1) for n in range(number)]
        env = {"DJANGO_TASKS": json.dumps(settings.TASKS), "OUTBOX_TASK_TOPICS": json.dumps(task_topics)}
        relay()

        for _ in range(3):
            command = consumer("--batch-size", 5, env=env)
            done = counts()["consumed"]
            wait_until(lambda done=done: counts()["consumed"] > done or counts()["consumed"] == number)
            command.kill()
        consumer(env=env)
        consumed(number, 120)

        names = Counter(Effect.objects.values_list("name", flat=True))
        assert names == Counter(f"add {n} 1" for n in range(number))
        for n, result in enumerate(results):
            result.refresh()
            assert (result.status, result.return_value) == (TaskResultStatus.SUCCESSFUL, n + 1)
