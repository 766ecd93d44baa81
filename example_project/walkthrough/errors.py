"""How the demo can end early."""


class DemoFailed(Exception):
    """A step failed; the logs of the named services may say why."""

    def __init__(self, message: str, *, look_at: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.look_at = look_at


class Stopped(Exception):
    """A signal told the demo to stop."""

    def __init__(self, exit_code: int) -> None:
        super().__init__(exit_code)
        self.exit_code = exit_code
