"""The examples of processors of one's own run as they are, and twice the same."""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def said_by(example):
    return subprocess.run([sys.executable, HERE / example], capture_output=True, text=True, check=True).stdout


@pytest.mark.skipif(find_spec("llguidance") is None, reason="needs a grammar engine: pip install llguidance")
def test_under_a_grammar_every_document_parses():
    said = said_by("grammar.py")

    assert "12 documents, all of them JSON of that form." in said
    assert said_by("grammar.py") == said


@pytest.mark.skipif(find_spec("llguidance") is not None, reason="the grammar engine is installed")
def test_without_a_grammar_engine_the_example_says_how_to_get_one():
    done = subprocess.run([sys.executable, HERE / "grammar.py"], capture_output=True, text=True)

    assert done.returncode == 1
    assert "pip install llguidance" in done.stderr


def test_two_models_can_be_contrasted():
    said = said_by("contrast.py")

    alone, contrasted = said.split("contrasted:\n")
    assert len(contrasted.splitlines()) == 3
    assert alone.removeprefix("strong alone:\n") != contrasted
    assert said_by("contrast.py") == said
