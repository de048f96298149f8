"""A film made in any order."""

import random

from nuwaxl.films.film import Film

ORDERS = ("display", "level", "reversed", "random")


def make_in(order: str, film: Film) -> None:
    """Fill the film's store in one of `ORDERS`; "display" is what reading its frames does."""
    if order == "level":
        for _ in film.orchestrator.run("level"):
            pass
    elif order != "display":
        windows = list(film.timeline.windows())
        windows.reverse() if order == "reversed" else random.Random(0).shuffle(windows)
        for window in windows:
            for _ in film.orchestrator.windows(window.frames[0], window.frames[0] + 1):
                pass
