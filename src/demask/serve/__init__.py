"""A server in the shape of OpenAI's: requests come and go between steps, and each is answered as if it were alone."""

from demask.serve.engine import Busy, Closed, Engine, Expired
from demask.serve.group import Ticket
from demask.serve.limits import Limits

__all__ = ["Busy", "Closed", "Engine", "Expired", "Limits", "Ticket"]
