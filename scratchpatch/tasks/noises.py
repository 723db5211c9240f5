"""Noise on the characters of a text, as in the Byte Latent Transformer (arXiv 2412.09871, its section on noise).

The paper gives shares, and no code. Characters are code points here; whatever a draw decides depends on the seed, the
kind of noise, the place of the text and the text, and on nothing else.
"""

import random
from collections.abc import Callable

# Shares of the characters.
_DROPPED, _REPEATED = 0.1, 0.2
# The most that a repeated character is written more often than once.
_REPEATS = 4


def _ant_speak(text: str, numbers: random.Random) -> str:
    """Upper case, a space between any two characters."""
    return " ".join(text.upper())


def _drop(text: str, numbers: random.Random) -> str:
    """Each character is left out with probability 0.1; where nothing but white space would be left, one stays."""
    left = "".join(character for character in text if numbers.random() >= _DROPPED)
    return left if left.strip() else text.strip()[:1]


def _random_case(text: str, numbers: random.Random) -> str:
    """Each character is in upper case with probability 0.5, else in lower case."""
    return "".join(character.upper() if numbers.random() < 0.5 else character.lower() for character in text)


def _repeat(text: str, numbers: random.Random) -> str:
    """Each character is, with probability 0.2, written one to four times more."""

    def times() -> int:
        return 1 + (1 + int(numbers.random() * _REPEATS) if numbers.random() < _REPEATED else 0)

    return "".join(character * times() for character in text)


def _upper_case(text: str, numbers: random.Random) -> str:
    return text.upper()


_KINDS: dict[str, Callable[[str, random.Random], str]] = {
    "ant_speak": _ant_speak,
    "drop": _drop,
    "random_case": _random_case,
    "repeat": _repeat,
    "upper_case": _upper_case,
}


def noised(kind: str, text: str, seed: int, place: str) -> str:
    """The text with noise of a kind: ant_speak, drop, random_case, repeat or upper_case.

    place: names the text among those of one seed, such as the number of its item.
    """
    words = f"{seed}/{kind}/{place}/{text}".encode("utf-8", "surrogateescape")
    # Python promises that `random()` gives the same numbers in all its versions.
    return _KINDS[kind](text, random.Random(words))
