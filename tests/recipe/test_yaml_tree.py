"""YAML as plain data: what passes, what is refused, and where it stood."""

import time
from pathlib import Path

import pytest

from llmopt.errors import RecipeError
from llmopt.recipe.yaml_tree import MAX_DEPTH, MAX_FILE_BYTES, parse_scalar, parse_yaml, read_yaml

LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n"
    for before, name in zip("abcdefghij", "bcdefghijk", strict=True)
)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0x10", 16),
        ("0o17", 15),
        ("1_000", 1000),
        ("-3", -3),
        ("1.5", 1.5),
        ("1e3", 1000.0),
        ("true", True),
        ("False", False),
        ("~", None),
        ("", None),
        # YAML 1.1 would make booleans, a date and a number to base 60 of these.
        ("on", "on"),
        ("off", "off"),
        ("yes", "yes"),
        ("No", "No"),
        ("2020-01-01", "2020-01-01"),
        ("12:30", "12:30"),
        ("'8'", "8"),
        ("前身頃", "前身頃"),
    ],
)
def test_scalars_are_read_as_yaml_1_2(text: str, value: object) -> None:
    read = parse_yaml(f"key: {text}\n", "r.yaml").data["key"]
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (".inf", "'.inf' is not a finite number"),
        ("-.Inf", "'-.Inf' is not a"),
        (".nan", "'.nan' is not a finite number"),
        ("010", "'010' is not a number"),
        ("!!int eight", "'eight' is not a number"),
        ("!!bool maybe", "'maybe' is none of true, false"),
        ("!!null nothing", "'nothing' is none of"),
        ("!!python/object/apply:os.system ['true']", "tag or merge key 'python/object/apply"),
        ("!!binary aGk=", "tag or merge key 'binary'"),
        ("!!set {a, b}", "tag or merge key 'set'"),
        ("!mine x", "tag or merge key '!mine'"),
        ("*nowhere", "found undefined alias 'nowhere'"),
        ("{b: 1, b: 2}", "key 'b' occurs twice"),
        ("{[a, b]: 1}", "a key must be a plain word"),
    ],
)
def test_what_is_not_plain_data_is_refused_with_its_place(text: str, message: str) -> None:
    with pytest.raises(RecipeError, match=r"r\.yaml:2:\d+: ") as caught:
        parse_yaml(f"first: 1\nkey: {text}\n", "r.yaml")
    assert message in str(caught.value)


def test_yaml_1_1_booleans_are_not_guessed_under_a_directive() -> None:
    with pytest.raises(RecipeError, match=r"r\.yaml:3:6: 'yes' is none of true, false"):
        parse_yaml("%YAML 1.1\n---\nkey: yes\n", "r.yaml")


def test_merge_keys_are_refused() -> None:
    with pytest.raises(RecipeError, match=r"r\.yaml:2:8: merge keys \(<<\) are not supported"):
        parse_yaml("base: &b {x: 1}\nmore: {<<: *b}\n", "r.yaml")


def test_a_duplicate_key_is_named_with_its_second_place() -> None:
    with pytest.raises(RecipeError, match=r"r\.yaml:3:1: key 'name' occurs twice"):
        parse_yaml("name: a\nversion: 1\nname: b\n", "r.yaml")


def test_an_anchor_defined_twice_is_refused() -> None:
    with pytest.raises(RecipeError, match="found duplicate anchor 'x'"):
        parse_yaml("a: &x 1\nb: &x 2\nc: *x\n", "r.yaml")


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "word\n", "42\n"])
def test_a_document_that_is_no_mapping_is_refused(text: str) -> None:
    with pytest.raises(RecipeError, match=r"r\.yaml: a recipe is a mapping"):
        parse_yaml(text, "r.yaml")


def test_two_documents_are_refused() -> None:
    with pytest.raises(RecipeError, match="another document"):
        parse_yaml("a: 1\n---\nb: 2\n", "r.yaml")


def test_a_syntax_error_names_its_place() -> None:
    with pytest.raises(RecipeError, match=r"r\.yaml:2:1: not valid YAML: .*'\\t'"):
        parse_yaml("a:\n\t- b\n", "r.yaml")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (LAUGHS, "more than 20000 values"),
        ("a: &x [*x]\n", f"nested more than {MAX_DEPTH} deep .*contain itself"),
        ("a: &x {b: *x, c: *x}\n", f"nested more than {MAX_DEPTH} deep"),
        ("a: &x [*x, *x, *x, *x]\n", f"nested more than {MAX_DEPTH} deep"),
        ("a: " + "[" * 60 + "]" * 60, f"nested more than {MAX_DEPTH} deep"),
        ("a: " + "[" * 100_000, "not valid YAML"),
        ("\n".join(" " * depth + "a:" for depth in range(1200)), "not valid YAML"),
        ("a: &a [x]\n" + "b: [" + "*a, " * 30_000 + "]\n", "more than 20000 values"),
    ],
)
def test_bombs_are_refused_before_they_grow(text: str, message: str) -> None:
    started = time.process_time()
    with pytest.raises(RecipeError, match=message):
        parse_yaml(text, "r.yaml")
    assert time.process_time() - started < 5


def test_anchors_used_sensibly_give_independent_copies() -> None:
    tree = parse_yaml("a: &x {n: 8, l: [1]}\nb: *x\nc: [*x, *x]\n", "r.yaml")
    assert tree.data == {
        "a": {"n": 8, "l": [1]},
        "b": {"n": 8, "l": [1]},
        "c": [tree.data["a"]] * 2,
    }
    assert tree.data["a"] is not tree.data["b"]
    assert tree.place_of(("b",)) == "r.yaml:2:1"
    assert tree.place_of(("b", "n")) == "r.yaml:1:8"


def test_places_are_those_of_keys_and_list_items() -> None:
    tree = parse_yaml("a:\n  b: 1\n  c: [x,\n    y]\n", "r.yaml")
    assert tree.place_of(("a", "b")) == "r.yaml:2:3"
    assert tree.place_of(("a", "c", 1)) == "r.yaml:4:5"
    assert tree.place_of(("a", "missing", "deeper")) == "r.yaml:1:1"
    assert tree.place_of(("nowhere",)) == "r.yaml:1:1"


@pytest.mark.parametrize(
    ("text", "value"),
    [("8", 8), ("true", True), ("[1, two]", [1, "two"]), ("", None), ("{a: 1}", {"a": 1})],
)
def test_parse_scalar_reads_one_value(text: str, value: object) -> None:
    assert parse_scalar(text, "--set a=") == value


def test_parse_scalar_names_the_override() -> None:
    with pytest.raises(RecipeError, match=r"--set a=\[1:1:3: not valid YAML"):
        parse_scalar("[1", "--set a=[1")


def test_a_byte_order_mark_is_skipped(tmp_path: Path) -> None:
    path = tmp_path / "bom.yaml"
    path.write_bytes(b"\xef\xbb\xbfname: x\n")
    assert read_yaml(path).data == {"name": "x"}


def test_other_encodings_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "sjis.yaml"
    path.write_bytes("name: 前身頃\n".encode("shift_jis"))
    with pytest.raises(RecipeError, match=r"sjis\.yaml is not UTF-8 \(byte offset 6\)"):
        read_yaml(path)


def test_a_huge_file_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "huge.yaml"
    path.write_text("a: 1\n" * (MAX_FILE_BYTES // 5 + 1), encoding="utf-8")
    started = time.process_time()
    with pytest.raises(RecipeError, match=rf"has \d+ bytes; allowed are {MAX_FILE_BYTES}"):
        read_yaml(path)
    assert time.process_time() - started < 1


def test_missing_files_and_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"nowhere\.yaml does not exist"):
        read_yaml(tmp_path / "nowhere.yaml")
    with pytest.raises(RecipeError, match="is a folder, not a file"):
        read_yaml(tmp_path)
