"""Every check that needs no tokenizer, in one pass; those that do are `tokens` and `chats`."""

from llmopt.data.lint.characters import find_character_faults
from llmopt.data.lint.duplicates import find_duplicates
from llmopt.data.lint.finding import Finding
from llmopt.data.lint.heldout_overlap import find_overlap
from llmopt.data.lint.lengths import find_short, report_malformed
from llmopt.data.lint.personal_data import find_personal_data
from llmopt.data.lint.rows import ReadRows
from llmopt.data.lint.scripts import report_scripts
from llmopt.data.lint.terms import TermList, report_coverage


def check_texts(read: ReadRows, heldout: ReadRows, terms: TermList | None) -> list[Finding]:
    """Checks a set's texts, in the order in which a reader would ask.

    Args:
        read: The set.
        heldout: The documents that the set must not hold; may be empty.
        terms: The field's vocabulary; None leaves the coverage out.
    """
    rows = read.rows
    findings = [
        report_malformed(ReadRows(rows, read.malformed + heldout.malformed)),
        *find_short(rows),
        *find_duplicates(rows),
        find_overlap(rows, heldout.rows),
        *find_character_faults(rows),
        *find_personal_data(rows),
        report_scripts(rows),
    ]
    if terms is not None:
        findings.append(report_coverage((row.text for row in rows), terms))
    return findings
