"""Lines of keys, held against documents whose lines are known because they were built so."""

from __future__ import annotations

import json
import tomllib

from hypothesis import given
from hypothesis import strategies as st

from gateway.toml import line_of, locate

TEXT = '''# comment with [brackets] and = signs
top = 1

[gateway]   # a table
name = "box # not a comment"
zone = """
two
lines ""quotes"""
"quoted.key" = 'lit\\'

[adapters.fxs]
ports = [
  { id = 1, caller_id = "a,b" },
  { id = 2, x = [1,
    [2, 3]] },   # inline
]
a.b.c = 1979-05-27T07:32:00Z

[[routes]]
name = "first"
targets = ["x",
  "y"]
[routes.announce]
file = "f"
[[routes]]
name = "second"
  [[routes.outputs]]
  output = "o"
'''


def test_every_key_has_its_line() -> None:
    lines = locate(TEXT)
    expected = {
        ("top",): 2,
        ("gateway",): 4,
        ("gateway", "name"): 5,
        ("gateway", "zone"): 6,
        ("gateway", "quoted.key"): 9,
        ("adapters", "fxs"): 11,
        ("adapters", "fxs", "ports", 0, "caller_id"): 13,
        ("adapters", "fxs", "ports", 1): 14,
        ("adapters", "fxs", "ports", 1, "x", 1, 0): 15,
        ("adapters", "fxs", "a", "b", "c"): 17,
        ("routes", 0): 19,
        ("routes", 0, "targets", 1): 22,
        ("routes", 0, "announce", "file"): 24,
        ("routes", 1, "name"): 26,
        ("routes", 1, "outputs", 0, "output"): 28,
    }
    assert {path: lines.get(path) for path in expected} == expected
    assert line_of(lines, ("routes", 1, "missing", "deep")) == 25
    assert line_of(lines, ("nowhere",)) is None


def _walk(value: object, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    found = [path] if path else []
    if isinstance(value, dict):
        for key, each in value.items():
            found += _walk(each, (*path, key))
    elif isinstance(value, list):
        for index, each in enumerate(value):
            found += _walk(each, (*path, index))
    return found


def test_every_path_that_tomllib_knows_has_a_line() -> None:
    lines = locate(TEXT)
    assert [path for path in _walk(tomllib.loads(TEXT)) if path not in lines] == []


_KEY = st.text("abc-_09 .\"'#[]=é", min_size=1, max_size=6)
_VALUE = st.recursive(
    st.sampled_from(
        ["1", "-2.5e3", "true", '"a # ] } , \\" b"', "'''x\n'y''\nz'''", '"""\n\\"""q"""', "'c:\\'"]
    ),
    lambda inner: st.lists(inner, max_size=3).map(lambda each: "[" + ",\n ".join(each) + " ]"),
    max_leaves=6,
)


@given(st.dictionaries(_KEY, _VALUE, max_size=6), st.sampled_from(["", "[t]\n", "[[t]]\n"]))
def test_random_documents(pairs: dict[str, str], header: str) -> None:
    text, expected = header, {}
    prefix = {"": (), "[t]\n": ("t",), "[[t]]\n": ("t", 0)}[header]
    for key, value in pairs.items():
        expected[(*prefix, key)] = text.count("\n") + 1
        text += f"{json.dumps(key, ensure_ascii=False)} = {value} # [x]\n\n"
    document = tomllib.loads(text)
    lines = locate(text)
    assert {path: lines[path] for path in expected} == expected
    assert all(path in lines for path in _walk(document))


@given(st.text("ab.=[]{}\",'# \n1\\", max_size=40))
def test_whatever_tomllib_takes_can_be_located(text: str) -> None:
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return
    lines = locate(text)
    assert [path for path in _walk(document) if path not in lines] == []
    assert all(1 <= line <= text.count("\n") + 1 for line in lines.values())
