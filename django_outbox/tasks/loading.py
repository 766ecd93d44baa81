"""Finds the tasks of a project, and registers their handlers."""

from __future__ import annotations

import pkgutil
from collections.abc import Iterator
from types import ModuleType

from django.apps import apps
from django.tasks import Task, task_backends
from django.utils.module_loading import module_has_submodule

from django_outbox.conf import TASK_PREFIX
from django_outbox.handlers.registry import Registry, imported
from django_outbox.tasks.backend import MODULE, OutboxBackend
from django_outbox.tasks.running import handler_of


def load_tasks(registry: Registry) -> None:
    """Import the modules with tasks, and register a handler for each task, if the outbox is a backend of ``TASKS``.

    Raises:
        HandlersNotImportable: naming the module.
    """
    backends = [backend for backend in task_backends.all() if isinstance(backend, OutboxBackend)]
    if not backends:
        return
    # Once, though a module may import those of another.
    found = {
        each.module_path for module in _modules(backends) for each in vars(module).values() if isinstance(each, Task)
    }
    for path in sorted(found):
        event_type, handler = TASK_PREFIX + path, handler_of(path)
        for topic in sorted(set().union(*[backend.topics_of(event_type) for backend in backends])):
            registry.register(event_type, handler, topic=topic)


def _modules(backends: list[OutboxBackend]) -> Iterator[ModuleType]:
    for app in apps.get_app_configs():
        if app.module is not None and module_has_submodule(app.module, MODULE):
            yield from _with_submodules(imported(f"{app.name}.{MODULE}"))
    for name in sorted({name for backend in backends for name in backend.modules}):
        yield imported(name)


def _with_submodules(module: ModuleType) -> Iterator[ModuleType]:
    yield module
    for found in pkgutil.iter_modules(getattr(module, "__path__", ())):
        yield from _with_submodules(imported(f"{module.__name__}.{found.name}"))
