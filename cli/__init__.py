"""The command line; nothing heavy is imported before a command asks for it."""

__all__ = ("main",)


def main() -> None:
    """Run ``quire`` with the process's arguments, and exit."""
    from .app import run

    run()
