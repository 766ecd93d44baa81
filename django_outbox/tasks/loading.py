"""Finds the tasks of a project, and registers their handlers."""

from __future__ import annotations

import logging
import pkgutil
from collections.abc import Iterator
from types import ModuleType

from django.apps import apps
from django.tasks import Task, task_backends
from django.utils.module_loading import module_has_submodule

from django_outbox.conf import TASK_PREFIX
from django_outbox.exceptions import HandlersNotImportable
from django_outbox.handlers.registry import Registry, imported
from django_outbox.state.failures import is_installed
from django_outbox.tasks.backend import MODULE, OutboxBackend
from django_outbox.tasks.running import handler_of

log = logging.getLogger("django_outbox.consumer")


def load_tasks(registry: Registry) -> None:
    """Import the modules with tasks, and register a handler for each task, if the outbox is a backend of ``TASKS``.

    Raises:
        HandlersNotImportable: naming the module.
    """
    backends = [backend for backend in task_backends.all() if isinstance(backend, OutboxBackend)]
    if not backends:
        return
    modules = [*_modules_of_apps(), *(imported(name) for backend in backends for name in backend.modules)]
    # Once, though a module may import those of another.
    found = {each.module_path for module in modules for each in vars(module).values() if isinstance(each, Task)}
    for path in sorted(found):
        registry.register(TASK_PREFIX + path, handler_of(path))  # in any topic: the settings may have changed since


def _modules_of_apps() -> Iterator[ModuleType]:
    for app in apps.get_app_configs():
        if app.name == "django_outbox" or app.module is None or not module_has_submodule(app.module, MODULE):
            continue
        try:
            yield from _with_submodules(imported(f"{app.name}.{MODULE}"))
        except HandlersNotImportable as error:
            if not is_installed(app.path):
                raise
            # It may need another queue, which this project does not have.
            log.warning("Tasks of %s are not run: %s", app.name, error, extra={"action": "skipped"})


def _with_submodules(module: ModuleType) -> Iterator[ModuleType]:
    yield module
    for found in pkgutil.iter_modules(getattr(module, "__path__", ())):
        if found.name != "__main__":
            yield from _with_submodules(imported(f"{module.__name__}.{found.name}"))
