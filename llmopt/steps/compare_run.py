"""The run of `eval.compare`; imports torch, so only the step's `run()` imports it."""

import json

from llmopt.evaluate.comparison import compare_candidates, compare_pairs
from llmopt.evaluate.comparison_table import write_table
from llmopt.evaluate.metrics import summarise_documents
from llmopt.steps.base import Outcome, RunContext, StepInputs
from llmopt.steps.eval_compare import EvalCompare
from llmopt.steps.measure_run import measure, write_documents

JSON_NAME = "comparison.json"
TABLE_NAME = "comparison.md"


def run_comparison(step: EvalCompare, inputs: StepInputs, context: RunContext) -> Outcome:
    """Scores all candidates in one pass; writes the comparison, its table, per-document rows."""
    measured = measure(step, inputs, context)
    scores = dict(zip(step.candidates, measured.scores, strict=True))
    metrics = compare_candidates(scores, measured.categories, step.bootstrap_samples)
    for found in metrics.values():
        found.update(measured.protocol)
    comparison = {
        "baseline": step.baseline,
        "candidates": metrics,
        "differences": compare_pairs(scores, step.bootstrap_samples),
    }
    folder = context.work_folder
    text = json.dumps(comparison, indent=1, ensure_ascii=False)
    (folder / JSON_NAME).write_text(text + "\n", encoding="utf-8")
    (folder / TABLE_NAME).write_text(write_table(metrics) + "\n", encoding="utf-8")
    write_documents(
        context,
        [
            {"candidate": name, **row}
            for name, part in scores.items()
            for row in summarise_documents(part, measured.origins, measured.categories)
        ],
    )
    return Outcome(metrics=dict(metrics), timings=measured.timings, machine=measured.machine)
