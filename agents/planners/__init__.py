"""Planners: searches over sequences of actions in imagination. One search a file."""

from agents.planners.build import build_planner
from agents.planners.cem import CEM
from agents.planners.gradient import Gradient
from agents.planners.icem import ICEM
from agents.planners.members import member_imagine
from agents.planners.mppi import MPPI, exponential_weights
from agents.planners.objective import Objective, plan_return, trusted_return
from agents.planners.planner import PlanMemory, Planner
from agents.planners.plans import CategoricalPlans, GaussianPlans, PlanFamily, colour, plan_family
from agents.planners.search import Found, Search, elite_weights, ranked, refine

__all__ = [
    "CEM",
    "ICEM",
    "MPPI",
    "CategoricalPlans",
    "Found",
    "GaussianPlans",
    "Gradient",
    "Objective",
    "PlanFamily",
    "PlanMemory",
    "Planner",
    "Search",
    "build_planner",
    "colour",
    "elite_weights",
    "exponential_weights",
    "member_imagine",
    "plan_family",
    "plan_return",
    "ranked",
    "refine",
    "trusted_return",
]
