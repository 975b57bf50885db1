import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmopt.evaluate.windows import Window, batch_windows, cut_windows


@st.composite
def protocols(draw: st.DrawFn) -> tuple[int, int, int]:
    """Draws a document's length, max_length and stride."""
    max_length = draw(st.integers(2, 40))
    return draw(st.integers(0, 130)), max_length, draw(st.integers(1, max_length - 1))


def scored_positions(window: Window) -> list[int]:
    """Returns the document's positions that a window scores; ids are positions in these tests."""
    return list(window.ids[len(window.ids) - window.num_scored :])


@given(protocols())
def test_every_token_but_the_first_is_scored_once_in_order(protocol: tuple[int, int, int]) -> None:
    length, max_length, stride = protocol
    windows = list(cut_windows(3, range(length), max_length, stride))
    scored = [position for window in windows for position in scored_positions(window)]
    assert scored == list(range(1, length))
    assert {window.document for window in windows} <= {3}


@given(protocols())
def test_every_token_has_its_context(protocol: tuple[int, int, int]) -> None:
    length, max_length, stride = protocol
    for window in cut_windows(0, range(length), max_length, stride):
        assert len(window.ids) <= max_length
        assert list(window.ids) == list(range(window.ids[0], window.ids[-1] + 1))
        for position in scored_positions(window):
            assert position - window.ids[0] >= min(position, max_length - stride)


@given(protocols())
def test_short_documents_are_one_window(protocol: tuple[int, int, int]) -> None:
    length, max_length, stride = protocol
    if 2 <= length <= max_length:
        ids = tuple(range(length))
        assert list(cut_windows(0, ids, max_length, stride)) == [Window(0, ids, length - 1)]


def test_windows_of_a_known_document() -> None:
    assert list(cut_windows(7, range(10), max_length=4, stride=3)) == [
        Window(7, (0, 1, 2, 3), 3),
        Window(7, (3, 4, 5, 6), 3),
        Window(7, (6, 7, 8, 9), 3),
    ]
    assert list(cut_windows(7, range(6), max_length=4, stride=1)) == [
        Window(7, (0, 1, 2, 3), 3),
        Window(7, (1, 2, 3, 4), 1),
        Window(7, (2, 3, 4, 5), 1),
    ]


@pytest.mark.parametrize("ids", [[], [5]])
def test_documents_without_a_second_token_give_nothing(ids: list[int]) -> None:
    assert list(cut_windows(0, ids, 8, 4)) == []


@pytest.mark.parametrize(("max_length", "stride"), [(8, 0), (8, -1), (8, 8), (8, 9), (1, 1)])
def test_strides_that_lose_the_context_are_refused(max_length: int, stride: int) -> None:
    message = f"stride is {stride}; it must be 1 or more and below max_length {max_length}"
    with pytest.raises(ValueError, match=message):
        list(cut_windows(0, range(20), max_length, stride))


@given(st.lists(st.integers(2, 60), max_size=40), st.integers(1, 200))
def test_batches_hold_every_window_once_within_the_limit(
    lengths: list[int], batch_tokens: int
) -> None:
    windows = [Window(index, tuple(range(length)), 1) for index, length in enumerate(lengths)]
    batches = list(batch_windows(windows, batch_tokens))
    assert sorted(w.document for batch in batches for w in batch) == list(range(len(windows)))
    for batch in batches:
        padded = len(batch) * max(len(window.ids) for window in batch)
        assert len(batch) == 1 or padded <= batch_tokens
