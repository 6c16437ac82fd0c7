"""Local Flow Matching itself: schedule, interpolants, couplings, solvers, the chain and its training.

Knows nothing of robots, tables, images or files.
"""

from lfm_policy.flow.distill import DistilledFlow, Distiller, DistillOptions, distill
from lfm_policy.flow.errors import LFMError
from lfm_policy.flow.fit import FitOptions, Fitter, Push, StepReport, fit_local_flow
from lfm_policy.flow.interpolant import INTERPOLANTS, interpolate
from lfm_policy.flow.likelihood import Likelihood, converged_log_prob
from lfm_policy.flow.local_flow import LocalFlow
from lfm_policy.flow.matching import COUPLINGS, Matching, Objective, Regression
from lfm_policy.flow.optimization import Optimization
from lfm_policy.flow.parallel import fit_in_parallel
from lfm_policy.flow.random import named_generator
from lfm_policy.flow.schedule import Schedule, ou_angle, ou_moments
from lfm_policy.flow.solver import FIXED_STEP, Solver
from lfm_policy.flow.source import PushedSource, Source, TensorSource

__all__ = [
    "COUPLINGS",
    "FIXED_STEP",
    "INTERPOLANTS",
    "DistillOptions",
    "DistilledFlow",
    "Distiller",
    "FitOptions",
    "Fitter",
    "LFMError",
    "Likelihood",
    "LocalFlow",
    "Matching",
    "Objective",
    "Optimization",
    "Push",
    "PushedSource",
    "Regression",
    "Schedule",
    "Solver",
    "Source",
    "StepReport",
    "TensorSource",
    "converged_log_prob",
    "distill",
    "fit_in_parallel",
    "fit_local_flow",
    "interpolate",
    "named_generator",
    "ou_angle",
    "ou_moments",
]
