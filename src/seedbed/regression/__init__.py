"""What the answers of servers say about each other: is this the server that was recorded, and if not, what changed?

``check`` holds a live server against a recording, ``accept`` makes its answers the new baseline. ``probe`` finds the condition under which
a server stops repeating itself, ``conformance`` holds its own draws against its rows. ``selftest`` keeps the check's promises.
"""

from seedbed.regression.accept import accept
from seedbed.regression.causes import Finding
from seedbed.regression.check import Progress, check
from seedbed.regression.conformance import conformance
from seedbed.regression.conformance_report import ConformanceProgress, ConformanceReport, Flaw
from seedbed.regression.continued import Evidence
from seedbed.regression.estimates import Estimate
from seedbed.regression.free_run import FreeRun, Parting
from seedbed.regression.probe import probe
from seedbed.regression.probe_report import Break, ProbeProgress, ProbeReport
from seedbed.regression.result import CheckReport
from seedbed.regression.selftest import Promise, selftest
from seedbed.regression.verdict import Verdict

__all__ = [
    "Break",
    "CheckReport",
    "ConformanceProgress",
    "ConformanceReport",
    "Estimate",
    "Evidence",
    "Finding",
    "Flaw",
    "FreeRun",
    "Parting",
    "ProbeProgress",
    "ProbeReport",
    "Progress",
    "Promise",
    "Verdict",
    "accept",
    "check",
    "conformance",
    "probe",
    "selftest",
]
