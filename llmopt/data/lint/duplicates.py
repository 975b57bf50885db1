"""Documents that repeat another one, exactly or nearly.

Near duplicates: MinHash and locality-sensitive hashing (Broder, "On the resemblance and containment
of documents", 1997) name candidates, whose true Jaccard similarity then decides.
"""

import unicodedata
import zlib
from collections.abc import Iterator, Sequence, Set

from datasketch import MinHash, MinHashLSH

from llmopt.data.lint.finding import Finding, Place, report_places, shorten_origin
from llmopt.data.lint.rows import Row
from llmopt.data.text_measures import WHITESPACE, list_sequences

SHINGLE_LENGTH = 5
NEAR_THRESHOLD = 0.8
# 25 bands of 5 rows: of pairs at the threshold, 1 in 20,000 is missed.
BANDS, BAND_ROWS = 25, 5
NUM_PERMUTATIONS = BANDS * BAND_ROWS


def find_duplicates(rows: Sequence[Row]) -> list[Finding]:
    """Finds documents equal to an earlier one, and those that nearly are."""
    first: dict[str, Row] = {}
    places = []
    for row in rows:
        original = first.setdefault(normalize(row.text), row)
        if original is not row:
            places.append(Place(row.origin, f"same as {shorten_origin(original.origin)}"))
    near = [
        Place(second.origin, f"{similarity:.0%} like {shorten_origin(original.origin)}")
        for second, original, similarity in _list_near_pairs(first)
    ]
    return [
        report_places("duplicates", "error", places, len(rows), "repeat an earlier one"),
        report_places(
            "near-duplicates", "warning", near, len(rows), "closely resemble an earlier one"
        ),
    ]


def normalize(text: str) -> str:
    """Brings a text into NFKC and leaves whitespace out."""
    return WHITESPACE.sub("", unicodedata.normalize("NFKC", text))


def measure_similarity(first: Set[str], second: Set[str]) -> float:
    """Returns the Jaccard similarity of two sets, 0 to 1."""
    union = len(first | second)
    return len(first & second) / union if union else 1.0


def _list_near_pairs(first: dict[str, Row]) -> Iterator[tuple[Row, Row, float]]:
    """Yields each document that resembles earlier ones, with the one most like it."""
    shingles = [set(list_sequences(text, SHINGLE_LENGTH)) for text in first]
    rows = list(first.values())
    index = MinHashLSH(num_perm=NUM_PERMUTATIONS, params=(BANDS, BAND_ROWS))
    sketches = MinHash.generator(
        ([shingle.encode() for shingle in own] for own in shingles),
        num_perm=NUM_PERMUTATIONS,
        hashfunc=zlib.crc32,
    )
    for number, sketch in enumerate(sketches):
        candidates = [
            (measure_similarity(shingles[number], shingles[earlier]), -earlier)
            for earlier in index.query(sketch)
        ]
        index.insert(number, sketch)
        similarity, earlier = max(candidates, default=(0.0, 0))
        if similarity >= NEAR_THRESHOLD:
            yield rows[number], rows[-earlier], similarity
