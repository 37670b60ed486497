"""Answering questions: one sans-IO ``answer``, mounted over HTTP by ``serve``, and models small enough to ship."""

from seedbed.server.answer import answer
from seedbed.server.faults import Fault, faults_at, random_faults
from seedbed.server.listener import Server, serve
from seedbed.server.models import HashLM, TinyLM

__all__ = ["Fault", "HashLM", "Server", "TinyLM", "answer", "faults_at", "random_faults", "serve"]
