import numpy as np
import pytest
from hypothesis import given, strategies as st

from scratchpatch.inference import windows
from scratchpatch.vocabulary import BYTES


@given(positions=st.integers(0, 400), length=st.integers(1, 70))
def test_every_position_is_answered_once_with_half_a_window_of_context(positions, length):
    plan = list(windows.plan(positions, length))
    answered = [n for w in plan for n in range(w.first, w.first + w.count)]
    assert answered == list(range(positions))
    for w in plan:
        assert w.count > 0
        assert w.start <= w.first and w.first + w.count <= w.start + length
        # Positions before the answered one that its row holds.
        assert w.first - w.start >= min(w.first, length // 2)
    assert len(plan) <= max(1, 1 + -(-(positions - length) // max(length // 2, 1)))


def test_no_positions_need_no_window():
    assert list(windows.plan(0, 16)) == []


def test_a_stream_of_one_window_has_one():
    assert list(windows.plan(16, 16)) == [windows.Window(0, 0, 16)]
    assert list(windows.plan(17, 16)) == [windows.Window(0, 0, 16), windows.Window(8, 16, 1)]


@given(st.integers(0, 3000), st.integers(8, 2048))
def test_a_row_holds_the_stream_or_is_a_window(positions, window):
    length = windows.row_length(positions, window)
    assert length <= window
    assert length >= positions or length == window
    # Few programs serve all lengths.
    assert length == window or length in (64, 128, 256, 512, 1024, 2048)


def test_text_reads_pad_beyond_its_end():
    text = windows.Text(np.array([256, 1, 2], np.int32), BYTES)
    assert len(text) == 3
    read = text.read(1, 4)
    assert read.tolist() == [1, 2, BYTES.pad, BYTES.pad] and read.dtype == np.int32
    assert text.read(5, 2).tolist() == [BYTES.pad, BYTES.pad]


@pytest.mark.parametrize("positions, size", [(0, 0), (2, 2), (3, 3), (9, 3)])
def test_a_head_hides_what_follows(positions, size):
    tokens = np.array([256, 1, 2], np.int32)
    head = windows.Head(windows.Text(tokens, BYTES), positions)
    assert len(head) == size
    assert head.read(0, 5).tolist() == tokens[:size].tolist() + [BYTES.pad] * (5 - size)
    assert head.read(2, 2).tolist() == tokens[2:size].tolist() + [BYTES.pad] * (4 - max(size, 2))
    assert tokens.tolist() == [256, 1, 2]
