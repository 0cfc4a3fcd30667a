"""Agents: policies trained inside a world model, their training and their evaluation."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agents.agent import Agent

__all__ = ["Agent"]


def __getattr__(name: str) -> Any:  # noqa: ANN401 - torch is loaded only when an agent is asked for
    if name == "Agent":
        from agents.agent import Agent

        return Agent
    raise AttributeError(f"module 'agents' has no attribute {name!r}")
