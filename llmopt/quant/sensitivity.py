"""Measures what each layer's rounding costs at several widths, to choose bits within a budget.

One pass over the calibration data through the original weights: at each stage the layers are
solved at every width, their errors are noted, and the data goes on unrounded.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from llmopt.artifacts.manifest import LayerError
from llmopt.checkpoint.fused_layers import group_fused
from llmopt.checkpoint.packed_size import count_layer_bytes, planned_layers
from llmopt.checkpoint.quant_plan import QuantPlan
from llmopt.quant.allocation import Option, choose_options
from llmopt.quant.block_pass import BlockResult, Schemes, Solver, solve_layers
from llmopt.quant.quantize_checkpoint import QuantizeJob, walk_blocks

FOLDER = "sensitivity"
LayerCosts = Mapping[tuple[str, int], float]  # (full layer name, bits) → cost


@dataclass(frozen=True)
class Budget:
    """A bound on a plan's size, and what may be chosen to keep it.

    Attributes:
        bits_per_weight: Bound on the mean over all of the plan's layers, all tensors counted.
        choices: Widths to choose from.
        free: Full names of the layers to choose for; the plan's others stay as they are.
    """

    bits_per_weight: float
    choices: tuple[int, ...]
    free: frozenset[str]

    def change_width(self, plan: QuantPlan, bits: int) -> Schemes:
        """Returns the plan's schemes with all that is free at one width."""
        changed = replace(plan.base, bits=bits)
        return {
            name: changed if name in self.free else scheme for name, scheme in plan.schemes.items()
        }


def allocate_bits(job: QuantizeJob, budget: Budget) -> QuantPlan:
    """Measures every free layer at every width, and chooses.

    Raises:
        ValueError: Not even the smallest widths fit.
        NumericalError: A layer's Hessian can't be factorised within the damping budget.
    """
    return choose_plan(job, relative_costs(measure_costs(job, budget)), budget)


def measure_costs(job: QuantizeJob, budget: Budget) -> list[LayerError]:
    """Solves every layer at every width on the original model's activations; resumes.

    Raises:
        NumericalError: A layer's Hessian can't be factorised within the damping budget.
    """

    def solve_stage(
        weights: Mapping[str, Tensor],
        finish_hessian: Callable[[], Tensor | None],
        schemes: Schemes,
        solve: Solver,
    ) -> BlockResult:
        del schemes
        H_II = finish_hessian()
        result = BlockResult()
        for bits in budget.choices:
            widths = budget.change_width(job.plan, bits)
            changed = {name: widths[name] if name in budget.free else None for name in widths}
            result.errors += solve_layers(weights, lambda: H_II, changed, solve).errors
        return result

    # Nothing is rounded on the way, so that there is nothing to be asymmetric to.
    measuring = replace(job, scratch=job.scratch / FOLDER, solve_stage=solve_stage, asymmetric=None)
    return walk_blocks(measuring, "measuring blocks").errors


def relative_costs(errors: Iterable[LayerError]) -> LayerCosts:
    """Returns each layer's output error over its output's power, by layer and bits.

    An expert that no token went through costs nothing: nothing is known of it.
    """
    costs = {}
    for error in errors:
        assert error.bits is not None
        cost = 0.0 if error.snr_db is None else 10 ** (-error.snr_db / 10)
        costs[error.layer, error.bits] = cost
    return costs


def choose_plan(job: QuantizeJob, costs: LayerCosts, budget: Budget) -> QuantPlan:
    """Chooses the width of every free layer.

    Args:
        job: The quantisation; its plan says everything but the free layers' widths.
        costs: What rounding a layer to so many bits does to the model.
        budget: The bound and the choice.

    Returns:
        The plan of least total cost within the bound; its base is the scheme of most layers.

    Raises:
        ValueError: Not even the smallest widths fit.
    """
    plan = job.plan
    shapes = dict(planned_layers(job.checkpoint.config, plan))
    sizes = {
        (name, bits): count_layer_bytes(scheme, shapes[name], job.format, job.checkpoint.dtype)
        for bits in budget.choices
        for name, scheme in budget.change_width(plan, bits).items()
    }
    fixed = sum(sizes[name, budget.choices[0]] for name in plan.schemes if name not in budget.free)
    bound = math.floor(budget.bits_per_weight * sum(map(math.prod, shapes.values())) / 8)
    units = group_fused(name for name in plan.schemes if name in budget.free)
    options = [[_add_up(unit, bits, sizes, costs) for bits in budget.choices] for unit in units]
    schemes = dict(plan.schemes)
    for unit, index in zip(units, choose_options(options, bound - fixed), strict=True):
        schemes |= dict.fromkeys(unit, replace(plan.base, bits=budget.choices[index]))
    counts = Counter(scheme for scheme in schemes.values() if scheme is not None)
    return replace(plan, base=counts.most_common(1)[0][0], schemes=schemes)


def _add_up(
    unit: Sequence[str], bits: int, sizes: Mapping[tuple[str, int], int], costs: LayerCosts
) -> Option:
    return Option(
        size_bytes=sum(sizes[name, bits] for name in unit),
        cost=sum(costs[name, bits] for name in unit),
    )
