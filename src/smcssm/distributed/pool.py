"""Ray, as much of it as is needed: actors that are started, called, waited for, and lost.

Ray is told never to restart an actor or to repeat a call: what was lost, and has to be said again, the driver knows.
"""

from __future__ import annotations

from typing import Any

from smcssm.distributed.shard import Setup
from smcssm.distributed.worker import Worker
from smcssm.errors import ModelError


class Lost(Exception):
    """A process that will not answer any more, or is not to be believed if it does."""


class Pool:
    """Starts workers; ``resources`` are those of ``ray.remote(...).options``, for each."""

    def __init__(self, setup: Setup, storage: str, resources: dict[str, Any]) -> None:
        try:
            import ray  # pyright: ignore[reportMissingImports]
        except ModuleNotFoundError:
            raise ModelError('RayFleet needs ray: pip install "smcssm[ray]"') from None
        self._ray, self._setup, self._storage = ray, setup, storage
        fixed = dict(max_restarts=0, max_task_retries=0, max_concurrency=1)
        self._actor = ray.remote(Worker).options(**{"num_cpus": 1, **resources, **fixed})

    def start(self) -> Any:
        """A new worker; whether it lives the first call will tell."""
        return self._actor.remote(self._setup, self._storage)

    def call(self, worker: Any, method: str, *arguments: Any) -> Any:
        """Begin a call; calls to one worker are answered in their order."""
        return getattr(worker, method).remote(*arguments)

    def wait(self, calls: list[Any], seconds: float) -> list[Any]:
        """Those of some calls that have ended, at least one; none if it takes longer."""
        return self._ray.wait(calls, num_returns=1, timeout=seconds)[0]

    def result(self, call: Any) -> Any:
        """Of a call that has ended.

        Raises:
            Lost: it will never be known.
        """
        errors = self._ray.exceptions
        try:
            return self._ray.get(call)
        except errors.RayTaskError as error:
            if isinstance(error.cause, Exception):
                raise error.cause from None
            raise
        except errors.RayError as error:  # not of the call: it died, was out of memory, could not be placed, ...
            raise Lost(str(error).strip().splitlines()[0]) from None

    def stop(self, worker: Any) -> None:
        """For good; one that is out of reach is left to itself."""
        self._ray.kill(worker, no_restart=True)
