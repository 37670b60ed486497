"""What the answers of servers say about each other: is this the server that was recorded, and if not, what changed."""

from seedbed.regression.causes import Finding
from seedbed.regression.check import Progress, check
from seedbed.regression.estimates import Estimate
from seedbed.regression.result import CheckReport
from seedbed.regression.verdict import Verdict

__all__ = ["CheckReport", "Estimate", "Finding", "Progress", "Verdict", "check"]
