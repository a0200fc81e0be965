"""What the attempts need: real agents, as the agent's own tests start them."""

from tests.unit.agent.conftest import agent, make_session

__all__ = ["agent", "make_session"]
