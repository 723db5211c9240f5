"""What patching must compute, byte by byte: every decision is made from what came before it.

A document is a list of tokens from its BOS (or from the row's start). These
loops see one document at a time, so they cannot look ahead or across a BOS.
"""

import math
from fractions import Fraction

import numpy as np

from scratchpatch import config as config_lib
from tests.tiny import BOS, PAD

CHUNK = 64
# Of the controller: unwanted firings that undo any calm; the least and the greatest threshold, in nats.
SLACK, LOWEST, HIGHEST = 128, 1e-4, math.log(264)


def starts(tokens) -> list[int]:
    """Where each document of a row starts."""
    return sorted({0, *(n for n, t in enumerate(tokens) if t == BOS)})


def spans(tokens) -> list[tuple[int, int]]:
    """(start, stop) of each document of a row."""
    begins = starts(tokens)
    return list(zip(begins, [*begins[1:], len(tokens)], strict=True))


def spacelike(token: int) -> bool:
    if token < 0x80:
        return not chr(token).isalnum()
    return 0xC0 <= token <= 0xFF


def word_end(tokens, n: int) -> bool:
    return spacelike(tokens[n]) and (n == 0 or not spacelike(tokens[n - 1]))


def jump(entropy, n: int) -> float:
    return -math.inf if n == 0 else float(np.float32(entropy[n]) - np.float32(entropy[n - 1]))


def benefit(entropy, n: int, first: int) -> float:
    """What `tiny.benefits` makes up for a byte of the patch that begins at `first`, as a score."""
    age = min((n - first + 1).bit_length() - 1, 6)
    return float(np.exp((np.float32(entropy[n]) - 2) * np.float32(1 + age / 8) / 2))


def after(tokens, n, marks):
    """Whether the bytes up to n, BOS and PAD being none, end with a mark."""
    text = "".join(chr(t) for t in tokens[: n + 1])
    return any(text.endswith("".join(map(chr, mark.encode()))) for mark in marks)


def chance(tokens, n: int) -> float:
    x = n
    for back in range(3):
        token = tokens[n - back] if n >= back else BOS
        x = ((x ^ (token + 0x9E3779B9)) * 0x85EBCA6B) % 2**32
        x = ((x ^ (x >> 13)) * 0xC2B2AE35) % 2**32
        x ^= x >> 16
    return (x >> 8) / 2**24


# The proper beginnings of all characters of several bytes: the last byte of a character has 64 values.
_CHARACTERS = (chr(c).encode() for c in range(0x80, 0x110000, 0x40) if not 0xD800 <= c < 0xE000)
BEGINNINGS = {character[:size] for character in _CHARACTERS for size in range(1, len(character))}


def inside(tokens, n: int) -> bool:
    """Whether a document's bytes up to n end in the beginning of a character, but for one that breaks another off."""

    def is_open(n: int) -> bool:
        ends = (tokens[n - size : n + 1] for size in range(min(n + 1, 3)))
        return any(max(end) <= 0xFF and bytes(end) in BEGINNINGS for end in ends)

    breaks = n > 0 and is_open(n - 1) and bytes([tokens[n] % 256]) in BEGINNINGS
    return is_open(n) and not breaks


class Controller:
    """A threshold that moves once per CHUNK bytes of its document, within bounds, and rests at PAD.

    `closest`: the least distance of a score to a threshold that moved through
    logarithms, where float32 may decide either way.
    """

    def __init__(self, threshold: float, gain: float, rate: float):
        self.threshold, self.gain, self.rate, self.fired = threshold, gain, rate, 0
        if gain:
            self.threshold = min(max(threshold, LOWEST), HIGHEST)
        self.low = max(self.threshold * math.exp(-gain * SLACK), LOWEST)
        self.closest = math.inf

    def fire(self, n: int, score: float, eligible: bool, valid: bool = True) -> bool:
        if self.gain and valid and n and n % CHUNK == 0:
            moved = math.log(self.threshold) + self.gain * (self.fired - self.rate * CHUNK)
            self.threshold = max(math.exp(min(moved, math.log(HIGHEST))), self.low)
            self.fired = 0
        if self.gain and math.isfinite(score):
            self.closest = min(self.closest, abs(score - self.threshold) / self.threshold)
        fires = eligible and score > self.threshold
        self.fired += fires
        return fires


class Budget:
    """At most floor(capacity * bytes so far) grants, first come first served."""

    def __init__(self, capacity: Fraction):
        self.capacity, self.granted = capacity, 0

    def grant(self, n: int, request: bool) -> bool:
        paid = request and self.granted < math.floor(self.capacity * (n + 1))
        self.granted += paid
        return paid


def opens(patching, tokens, n: int) -> bool:
    """Whether BLT's first patches end here: the BOS, and under a rule of jumps the byte after it."""
    follows = n == 1 and tokens[0] == BOS and patching.kind in ("entropy_jump", "entropy_and_jump")
    return patching.commit_bos and (tokens[n] == BOS or follows)


def may_ask(patching, entropy, n: int) -> bool:
    """Whether the score decides at all: a small jump forbids it, and the beginning of a document under BLT's rules."""
    if patching.kind == "entropy_and_jump" and not jump(entropy, n) > np.float32(patching.jump):
        return False
    first = {"entropy": 0, "entropy_jump": 2, "entropy_and_jump": 3}[patching.kind]
    return not patching.commit_bos or n >= first


class Document:
    """Decisions of one document: commit, scratchpad (masks), suppressed counts; thresholds by byte and at its end."""

    def __init__(self, config, tokens, entropy, patching: float, trigger: float):
        p, t = config.patching, config.trigger
        commits, scratchpads = (
            Budget(config_lib.commit_capacity(config)),
            Budget(config_lib.scratchpad_capacity(config)),
        )
        self.patching = Controller(patching, p.gain, 1 / p.patch_bytes)
        self.trigger = Controller(trigger, t.gain, t.rate)
        self.commit, self.scratchpad = [], []
        self.patching_thresholds, self.trigger_thresholds = [], []
        self.suppressed_commits = self.suppressed_scratchpads = 0
        held_commit = held_scratchpad = False
        asked, patch_start = -1, 0  # last byte that the patchifier asked for, before chopping; first of the patch
        for n, token in enumerate(tokens):
            valid = token != PAD
            score = {
                "byte": lambda n: True,
                "fixed": lambda n: n % p.patch_bytes == p.patch_bytes - 1,
                # A BOS that is a patch of its own is space-like.
                "whitespace": lambda n: word_end(tokens, n) and not (p.commit_bos and n and tokens[n - 1] == BOS),
                "random": lambda n: chance(tokens, n) < np.float32(1 / p.patch_bytes),
                "entropy": lambda n: float(entropy[n]),
                "entropy_jump": lambda n: jump(entropy, n),
                "entropy_and_jump": lambda n: float(entropy[n]),
                # What `tiny.signals` makes up.
                "learned": lambda n: float(entropy[n]) > 2,
            }[p.kind](n)
            variable = p.kind not in ("byte", "fixed", "learned")
            open_ = inside(tokens, n) if p.whole_characters or t.whole_characters else False
            waits, pauses = p.whole_characters and open_, t.whole_characters and open_
            if p.kind.startswith("entropy"):
                asks = self.patching.fire(n, score, valid and may_ask(p, entropy, n) and not waits, valid)
            else:
                asks = valid and score
            asks = asks or (variable and valid and opens(p, tokens, n))
            chopped = variable and valid and (n - asked) % p.max_patch_bytes == 0
            asked = n if asks else asked
            wanted = asks or chopped or held_commit and valid
            request, held_commit = wanted and not waits, wanted and waits
            commit = commits.grant(n, request)
            self.suppressed_commits += request and not commit

            eligible = valid and not commit
            if t.kind in config_lib.SCORED["trigger"]:
                read = {"entropy": lambda n: float(entropy[n]), "entropy_jump": lambda n: jump(entropy, n)}.get(
                    t.kind, lambda n, first=patch_start: benefit(entropy, n, first)
                )(n)
                wish = self.trigger.fire(n, read, eligible and not pauses, valid)
            else:
                asks = eligible and {
                    "none": lambda n, first: False,
                    "every": lambda n, first: True,
                    "stride": lambda n, first: (n - first + 1) % t.stride == 0,
                    "whitespace": lambda n, first: word_end(tokens, n),
                    "random": lambda n, first: chance(tokens, n) < np.float32(t.rate),
                    "marks": lambda n, first: after(tokens, n, t.marks),
                }[t.kind](n, patch_start)
                wanted = asks or held_scratchpad
                wish, held_scratchpad = wanted and not pauses and eligible, wanted and pauses
            scratchpad = scratchpads.grant(n, wish)
            self.suppressed_scratchpads += wish and not scratchpad
            patch_start = n + 1 if commit else patch_start
            self.commit.append(commit)
            self.scratchpad.append(scratchpad)
            self.patching_thresholds.append(self.patching.threshold)
            self.trigger_thresholds.append(self.trigger.threshold)


def decide(config, tokens, entropy, patching: float, trigger: float) -> list[Document]:
    """The documents of a row, each on its own."""
    return [Document(config, tokens[a:b], entropy[a:b], patching, trigger) for a, b in spans(tokens)]
