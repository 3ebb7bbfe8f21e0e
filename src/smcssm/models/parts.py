"""A structural model with its components beside their sum: what each of them adds to an observation."""

from __future__ import annotations

import equinox as eqx
from jaxtyping import Array, Bool

from smcssm.core import AbstractLinearGaussian, AbstractPrior, Matrix, Observation, System, Theta
from smcssm.linalg.entries import block_diagonal
from smcssm.models.structural import Structural


class InParts(AbstractLinearGaussian):
    """The same states; the channels are ``y`` and what each component adds to it, without the noise."""

    whole: Structural
    names: tuple[str, ...] = eqx.field(init=False)
    shapes: tuple[tuple[int, ...], ...] = eqx.field(init=False)
    state_names: tuple[str, ...] = eqx.field(init=False)
    channel_names: tuple[str, ...] = eqx.field(init=False)
    input_names: tuple[str, ...] = eqx.field(init=False)
    continuous_time: bool = eqx.field(init=False)

    def __post_init__(self) -> None:
        """All is the whole's but for the channels: a component's name, or that of its kind."""
        self.names, self.shapes, self.state_names = self.whole.names, self.whole.shapes, self.whole.state_names
        self.input_names, self.continuous_time = self.whole.input_names, self.whole.continuous_time
        parts = tuple(type(c).__name__ if c.name is None else c.name for c in self.whole.components)
        self.channel_names = (*self.whole.channel_names, *parts)

    def params(self, theta: Theta) -> dict[str, Array]:
        """Those of the whole."""
        return self.whole.params(theta)

    def support(self, theta: Theta) -> Bool[Array, ""]:
        """That of the whole."""
        return self.whole.support(theta)

    def default_prior(self, scale: float) -> AbstractPrior:
        """That of the whole."""
        return self.whole.default_prior(scale)

    def initial(self, params: Theta, obs: Observation) -> tuple[Matrix, Matrix]:
        """That of the whole."""
        return self.whole.initial(params, obs)

    def matrices(self, params: Theta, obs: Observation) -> System:
        """Those of the whole; below its row of H that row with all entries but one component's zero."""
        system, start, parts = self.whole.matrices(params, obs), 0, []
        [row] = system.H
        for c in self.whole.components:
            end = start + len(c.states)
            parts.append([e if start <= i < end else 0.0 for i, e in enumerate(row)])
            start = end
        nothing = [0.0] * len(parts)
        chol_R = block_diagonal([system.chol_R, [nothing for _ in parts]])
        return system._replace(H=[row, *parts], d=[*system.d, *nothing], chol_R=chol_R)
