"""Proposals fitted to the weighted population."""

from smcssm.smc2.proposals.mixture import Mixture as Mixture
from smcssm.smc2.proposals.random_walk import RandomWalk as RandomWalk
from smcssm.smc2.proposals.random_walk import RandomWalkWithinModes as RandomWalkWithinModes
