"""Every file of what the package keeps, damaged in every way that was thought of: it is read and right, or an older
step is, or one clear line says what is wrong; nothing waits for ever, and nothing outside is written.

`pytest tests/test_fuzz.py --fuzz_minutes=60` goes on for an hour, with other damages.
"""

import itertools
import shutil
import time

import hypothesis
import pytest
from hypothesis import HealthCheck, Phase, given, note, settings, strategies as st

from tests import damages, fuzz

# Of each kind, in the suite; and of a round of those that go on.
_EXAMPLES = {"run": 8, "durable": 4, "export": 10, "hf": 8, "prepared": 15, "index": 15}
_ROUND = 100


@pytest.fixture(scope="module")
def wholes():
    """What was built, by what built it: (where it is damaged, a whole one)."""
    return {}


@pytest.fixture(scope="module", params=fuzz.SUBJECTS)
def subject(request, tmp_path_factory, wholes):
    """(kind, a whole one, where it is damaged, what its readers give)."""
    kind = fuzz.SUBJECTS[request.param]
    if kind.build not in wholes:
        # One place for all examples, since paths are part of what is stored.
        place = tmp_path_factory.mktemp(kind.name) / "place"
        wholes[kind.build] = place, place.with_name("whole")
        (place / "outside").mkdir(parents=True)
        (place / "outside" / "canary").write_text("alive")
        kind.build(place)
        shutil.copytree(place, place.with_name("whole"), symlinks=True)
    place, whole = wholes[kind.build]
    _renew(whole, place)
    if kind in (fuzz.RUN, fuzz.DURABLE):
        fuzz.learn(place, kind)
        _renew(whole, place)
    right = fuzz.read(kind, place)
    assert fuzz.REFUSED not in right.values()
    return kind, whole, place, right


def _renew(whole, place):
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(whole, place, symlinks=True)


def _damage(data, kind, whole, place, right):
    _renew(whole, place)
    for _ in range(data.draw(st.sampled_from((1, 1, 1, 2)), label="damages")):
        note(damages.draw(data, place / kind.damaged))
    before = fuzz.outside(place)
    for name, value in fuzz.read(kind, place).items():
        assert value == fuzz.REFUSED or kind.right(name, right[name], value), f"{name} gave {value}, not {right[name]}"
    assert fuzz.outside(place) == before


def test_damage_is_repaired_or_named(subject, request):
    minutes, kind = request.config.getoption("fuzz_minutes"), subject[0]
    end = time.monotonic() + 60 * minutes / len(fuzz.SUBJECTS)
    check = settings(
        max_examples=_ROUND if minutes else _EXAMPLES[kind.name],
        database=None,
        # A damage is told in a line; to find a smaller one takes minutes.
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
    )(given(data=st.data())(lambda data: _damage(data, *subject)))
    if not minutes:
        check()
        return
    for number in itertools.count(time.time_ns()):
        hypothesis.seed(number)(check)()
        if time.monotonic() > end:
            return
