"""docs/serving-preflight.md says what the rules say, and what it calls proven is tested."""

from llmopt.serving.preflight import RULES
from llmopt.serving.rule import rule_name
from llmopt.serving.rules_table import PROOFS, read_entry, write_table
from tests.models import REPOSITORY
from tests.vllm.proofs import PROVEN


def test_the_page_is_up_to_date() -> None:
    page = (REPOSITORY / "docs" / "serving-preflight.md").read_text(encoding="utf-8")
    assert page == write_table(), "run make reference"


def test_each_rule_names_its_source() -> None:
    for rule in {rule for rules in RULES.values() for rule in rules}:
        entry = read_entry(rule)
        assert set(entry) == {"says", "For", "Source", "Proof"}, rule_name(rule)
        assert all(entry.values())
        assert entry["For"].startswith(("vllm", "onnxruntime", "tensorrt", "all runtimes"))


def test_what_is_called_proven_has_a_test_with_the_real_vllm() -> None:
    claimed = {
        (rule_name(rule), proof)
        for rules in RULES.values()
        for rule in rules
        for proof in read_entry(rule)["Proof"].split(", ")
    }
    assert {proof for _, proof in claimed} <= set(PROOFS)
    assert {(name, proof) for name, proof in claimed if proof != "source"} == PROVEN
