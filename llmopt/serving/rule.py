"""What a preflight rule is: a small function that yields what it finds wrong.

Its docstring is the rule's entry in docs/serving-preflight.md: the first line says the rule, the
paragraphs `For:`, `Source:` and `Proof:` say what it holds for, who says so and how it was seen.
File names in a source are of vLLM 0.32, under vllm/model_executor/ where no other place is named.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

from llmopt.serving.served_weights import ServedWeights
from llmopt.serving.target import Target


class Fault(NamedTuple):
    """A broken rule.

    Attributes:
        message: The value received and what is allowed.
        remedy: The setting to change.
        where: The kind of layer, or the block; faults that differ in nothing else are told once.
    """

    message: str
    remedy: str
    where: str | None = None


Rule = Callable[[ServedWeights, Target], Iterator[Fault]]


def rule_name(rule: Rule) -> str:
    """Returns the name that messages and the table give a rule."""
    return rule.__name__.replace("_", "-")
