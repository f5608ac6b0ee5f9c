"""When to stop drawing samples: one rule per file, one interface (`base.StoppingRule`)."""

from modicum.testtime.stopping.accept import AcceptCount, FirstAccept
from modicum.testtime.stopping.base import GO_ON, NEVER, Decision, StoppingRule, VoteCounter
from modicum.testtime.stopping.beta import BetaStop
from modicum.testtime.stopping.certificate import ModeCertificate
from modicum.testtime.stopping.combine import All, Any
from modicum.testtime.stopping.curtailed import Curtailed
from modicum.testtime.stopping.esc import ESC
from modicum.testtime.stopping.evidence import beta_confidence, log_e_pair
from modicum.testtime.stopping.fixed import FixedN
from modicum.testtime.stopping.parse import RULES, parse_rule
from modicum.testtime.stopping.ppr import PPR
from modicum.testtime.stopping.reward_gain import RewardGain, expected_gain
from modicum.testtime.stopping.simulate import (
    ExactStopping,
    StoppingStudy,
    answer_streams,
    exact_two_answers,
    simulate_stopping,
)
from modicum.testtime.stopping.supermajority import Supermajority
from modicum.testtime.stopping.tables import StopTable

__all__ = [
    "ESC",
    "GO_ON",
    "NEVER",
    "PPR",
    "RULES",
    "AcceptCount",
    "All",
    "Any",
    "BetaStop",
    "Curtailed",
    "Decision",
    "ExactStopping",
    "FirstAccept",
    "FixedN",
    "ModeCertificate",
    "RewardGain",
    "StopTable",
    "StoppingRule",
    "StoppingStudy",
    "Supermajority",
    "VoteCounter",
    "answer_streams",
    "beta_confidence",
    "exact_two_answers",
    "expected_gain",
    "log_e_pair",
    "parse_rule",
    "simulate_stopping",
]
