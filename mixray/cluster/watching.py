"""Waiting for remote work: news while it runs, results as they come.

Workers post their news on a notice board, and the driver takes it down. Losing the board, or a notice on it, changes no
result.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import ray
from ray.exceptions import ActorUnavailableError, RayActorError, RayError

POLL_SECONDS = 0.5
SECONDS_TO_LEARN_OF_DEATH = 60.0
"""Ray says that a machine is dead when it has not answered for about 15 s."""
News = Callable[[str, Any], None]
"""Called in the driver with (key, notice) for everything that workers post."""


def plain(text: str) -> str:
    """A message of Ray's without the colours of a terminal."""
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def was_preempted(error: RayError, actor: ray.actor.ActorHandle) -> bool:
    """Return whether an actor that did not answer died because its machine was taken away, as announced.

    While Ray does not know what became of the actor, this waits.
    """
    if isinstance(error, ActorUnavailableError):
        try:
            ray.get(actor.__ray_ready__.remote(), timeout=SECONDS_TO_LEARN_OF_DEATH)
        except RayError as later:
            error = later
    return isinstance(error, RayActorError) and error.preempted


class Board:
    """``post`` from any worker, ``take`` from the driver."""

    def __init__(self) -> None:
        self._notices: list[tuple[str, Any]] = []

    def post(self, key: str, notice: Any) -> None:
        self._notices.append((key, notice))

    def take(self) -> list[tuple[str, Any]]:
        """Return everything posted since the last call, oldest first."""
        notices, self._notices = self._notices, []
        return notices


BoardActor: Any = ray.remote(num_cpus=0, max_restarts=-1)(Board)


class Watcher:
    """Owns a board for the time of one stage and passes its notices on; ``moved`` is called where there are any."""

    def __init__(self, news: News, moved: Callable[[], None]) -> None:
        self.board = BoardActor.remote()
        self._news, self._moved = news, moved

    def next_finished(self, running: list[ray.ObjectRef]) -> ray.ObjectRef:
        """The next of the references to finish, well or badly; news is passed on meanwhile."""
        while True:
            finished, _ = ray.wait(running, num_returns=1, timeout=POLL_SECONDS)
            self.pass_on()
            if finished:
                return finished[0]

    def pass_on(self) -> None:
        try:
            notices = ray.get(self.board.take.remote())
        except RayActorError:  # its node died with the news on it; Ray starts another board
            return
        if notices:
            self._moved()
        for key, notice in notices:
            self._news(key, notice)
