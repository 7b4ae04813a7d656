"""What rated words give, by hand, and what is no lexicon."""

import math
from pathlib import Path

import pytest

from peft_panacea.rewards import Valence

VADER = Path(__file__).resolve().parents[3] / "shared" / "data" / "vader" / "vader_lexicon.txt"

LEXICON = {"Happy": 2.7, "sad": -2.1, "can’t": -1.0}
VALENCE = 2.7 / math.sqrt(2.7**2 + 15)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A HAPPY day", VALENCE),
        ("not happy.", VALENCE),
        ("happy sad sad", -1.5 / math.sqrt(1.5**2 + 15)),
        ("I can't", -0.25),
        ("unhappy", 0),
        ("", 0),
    ],
)
def test_by_hand(text, expected):
    assert Valence(LEXICON)([text]) == pytest.approx([expected])


def test_lexicon_file(tmp_path):
    path = tmp_path / "lexicon.txt"
    path.write_text("happy\t1.0\t0.5\t[1, 1]\nHappy\t2.7\nsüß\t1\n", encoding="utf-8")
    assert Valence(path).ratings == {"happy": 2.7, "süß": 1.0}


@pytest.mark.skipif(not VADER.exists(), reason=f"needs {VADER}")
def test_the_lexicon_of_vader():
    """0.5719 is what the authors' program gives to this word, too."""
    assert Valence(VADER)(["happy"]) == pytest.approx([0.5719], abs=5e-5)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("happy 2.7\n", "must have lines of word, tab, rating, but got 'happy 2.7' in"),
        ("happy\t2.7\nsad\tvery\n", "but got 'sad\\tvery' in"),
        ("happy\tnan\n", "must have finite ratings, but got"),
        ("", "must have finite ratings, but got"),
    ],
)
def test_what_is_no_lexicon(tmp_path, content, message):
    path = tmp_path / "lexicon.txt"
    path.write_text(content)
    with pytest.raises(ValueError, match="`lexicon` must") as caught:
        Valence(path)
    assert message in str(caught.value)
