"""How the demo can end before its end."""


class DemoFailed(Exception):
    """Something did not work; the message says what, the named services' logs perhaps why."""

    def __init__(self, message: str, *, look_at: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.look_at = look_at


class Stopped(Exception):
    """The user, or the system, wants the demo to stop."""

    def __init__(self, exit_code: int) -> None:
        super().__init__(exit_code)
        self.exit_code = exit_code
