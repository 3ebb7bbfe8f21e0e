"""The command line: ``smcssm demo``."""

from __future__ import annotations

import typer

app = typer.Typer(
    help="Online Bayesian state-space models.", no_args_is_help=True, pretty_exceptions_show_locals=False
)


@app.callback()
def _root() -> None:
    """Online Bayesian state-space models."""


@app.command()
def demo() -> None:
    """Stream a real series through an engine and print what it has learned."""
    from smcssm import demo as story

    story.nile()


def main() -> None:
    """Entry point."""
    app()


if __name__ == "__main__":
    main()
