import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llmopt.artifacts.quant_scheme import QuantScheme
from llmopt.quant.column_order import ColumnOrder, order_columns
from tests.quant.textbook_gptq import TextbookScheme
from tests.quant.textbook_gptq import order_columns as order_textbook_columns

# Small integers, so that columns tie.
diagonals = st.lists(st.integers(0, 9), min_size=1, max_size=140).map(
    lambda values: torch.tensor(values, dtype=torch.float64)
)
sizes = st.sampled_from((-1, 32, 64, 128))


def order(diagonal: torch.Tensor, size: int, name: str) -> ColumnOrder:
    """Orders columns as natural, desc_act or act_group_aware."""
    scheme = QuantScheme(4, size, desc_act=name == "desc_act")
    return order_columns(diagonal, scheme, name == "act_group_aware")


@pytest.mark.parametrize("name", ["natural", "desc_act", "act_group_aware"])
@given(diagonal=diagonals, size=sizes)
def test_is_the_textbooks_order(name: str, diagonal: torch.Tensor, size: int) -> None:
    result = order(diagonal, size, name)
    perm, groups = order_textbook_columns(
        diagonal.numpy(), TextbookScheme(4, size, sym=True, order=name)
    )
    assert result.perm_I.tolist() == perm.tolist()
    assert result.g_idx_I[result.perm_I].tolist() == groups
    spelled = [group for first, last, group in result.spans for _ in range(first, last)]
    assert spelled == groups


@pytest.mark.parametrize("name", ["natural", "desc_act", "act_group_aware"])
@given(diagonal=diagonals, size=sizes)
def test_restore_undoes_the_order(name: str, diagonal: torch.Tensor, size: int) -> None:
    result = order(diagonal, size, name)
    values = torch.arange(len(diagonal) * 2).reshape(-1, 2)
    assert torch.equal(result.restore(values[result.perm_I]), values)


@given(diagonals, sizes)
def test_group_aware_order_moves_no_column_to_another_group(
    diagonal: torch.Tensor, size: int
) -> None:
    aware, natural = order(diagonal, size, "act_group_aware"), order(diagonal, size, "natural")
    assert torch.equal(aware.g_idx_I, natural.g_idx_I)
    assert sorted(aware.spans, key=lambda span: span[2])[-1][2] == natural.spans[-1][2]


@given(diagonals, sizes, st.booleans())
def test_static_groups_follow_the_diagonal_and_move_no_column(
    diagonal: torch.Tensor, size: int, desc_act: bool
) -> None:
    scheme = QuantScheme(4, size, desc_act=desc_act, static_groups=True)
    result = order_columns(diagonal, scheme, act_group_aware=not desc_act)
    textbook = TextbookScheme(4, size, sym=True, order="desc_act", static_groups=True)
    perm, groups = order_textbook_columns(diagonal.numpy(), textbook)
    assert result.perm_I.tolist() == perm.tolist()
    assert result.g_idx_I[result.perm_I].tolist() == groups
    assert torch.equal(result.g_idx_I, order(diagonal, size, "natural").g_idx_I)
    values = torch.arange(len(diagonal) * 2).reshape(-1, 2)
    assert torch.equal(result.restore(values[result.perm_I]), values)


def test_group_aware_order_of_a_known_diagonal() -> None:
    diagonal = torch.zeros(70)
    diagonal[[5, 40, 41, 69]] = torch.tensor([2.0, 1.0, 3.0, 4.0])
    result = order(diagonal, 32, "act_group_aware")
    # The last, short group has the highest peak, then the second, then the first.
    assert result.spans == ((0, 6, 2), (6, 38, 1), (38, 70, 0))
    assert result.perm_I[:2].tolist() == [69, 64]
    assert result.perm_I[6:9].tolist() == [41, 40, 32]
    assert result.perm_I[38:40].tolist() == [5, 0]
