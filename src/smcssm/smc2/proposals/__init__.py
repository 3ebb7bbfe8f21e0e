"""Proposals fitted to the weighted population."""

from smcssm.smc2.proposals.random_walk import RandomWalk as RandomWalk
from smcssm.smc2.proposals.student_t import StudentT as StudentT
