"""Local flows as density models of tables: a scikit-learn estimator, and the runs behind `lfm density`."""

from lfm_policy.density.estimator import LocalFlowDensity

__all__ = ["LocalFlowDensity"]
