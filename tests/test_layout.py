"""The house: which file may import which, no circles, and how large a file may grow."""

import ast
import statistics
from pathlib import Path

import pytest

import peft_panacea

SOURCE = Path(peft_panacea.__file__).parent
DESIGN = SOURCE.parents[1] / "docs" / "design.md"

# What the files of a room may import outside of it. `tuner` could move into PEFT as it is.
ALLOWED = {
    "__init__": {"hub", "plugin", "simplex", "tuner"},
    "__main__": {"command"},
    "aggregation": set(),
    "card": {"front", "licence", "tuner"},
    "command": {
        "__init__",
        "card",
        "completions",
        "convert",
        "data",
        "extras",
        "front",
        "hub",
        "playground",
        "plots",
        "rewards",
        "serving",
        "simplex",
        "tuner",
        "written",
    },
    "completions": {"tuner"},
    "convert": {"extras", "tuner"},
    "data": {"extras"},
    "dependence": set(),
    "extras": set(),
    "front": {"completions", "extras", "metrics", "rewards", "seeding", "tuner"},
    "hub": {"card", "tuner"},
    "licence": set(),
    "metrics": {"extras"},
    "personalise": {"completions", "seeding", "tuner"},
    "playground": {"completions", "convert", "extras", "front", "plots", "steps", "tuner"},
    "plots": {"extras", "metrics"},
    "plugin": {"card", "tuner"},
    "rewards": set(),
    "seeding": set(),
    "serving": {"convert", "extras", "hub", "steps", "tuner", "written"},
    "simplex": {"seeding"},
    "training": {"aggregation", "data", "dependence", "front", "seeding", "simplex", "tuner"},
    "steps": set(),
    "tuner": set(),
    "written": set(),
}
LONGEST = 300

FILES = {path.relative_to(SOURCE).with_suffix("").as_posix(): path for path in sorted(SOURCE.rglob("*.py"))}


def room(name: str) -> str:
    return name.partition("/")[0]


def imports(name: str) -> set[str]:
    """The files of this package that a file imports, also in functions and for type checkers."""
    folder = name.split("/")[:-1]
    found = set()
    for node in ast.walk(ast.parse(FILES[name].read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = folder[: len(folder) - node.level + 1] + (node.module or "").split(".")
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "peft_panacea":
            base = node.module.split(".")[1:]
        else:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            assert not any(text.partition(".")[0] == "peft_panacea" for text in names), f"{name} imports by full name"
            continue
        base = [part for part in base if part]
        for alias in node.names:
            named = [*base, alias.name]
            candidates = ("/".join(parts) for parts in (named, [*named, "__init__"], base, [*base, "__init__"]))
            found.add(next(candidate for candidate in candidates if candidate in FILES))
    return found


def circle(graph: dict[str, set[str]]) -> list[str]:
    """Nodes that lead back to the first of them, or none."""
    left = {name: set(targets) for name, targets in graph.items()}
    while ends := [name for name, targets in left.items() if not targets & left.keys()]:
        for name in ends:
            del left[name]
    path: list[str] = []
    while left:
        name = next(iter(left)) if not path else next(iter(left[path[-1]] & left.keys()))
        if name in path:
            return path[path.index(name) :]
        path.append(name)
    return []


@pytest.mark.parametrize("name", FILES)
def test_arrows_point_one_way(name):
    assert {room(target) for target in imports(name)} - {room(name)} <= ALLOWED[room(name)]


@pytest.mark.parametrize("name", FILES)
def test_files_stay_small(name):
    assert len(FILES[name].read_text(encoding="utf-8").splitlines()) <= LONGEST


def test_no_file_imports_itself_by_way_of_others():
    """Also where an import is in a function or for type checkers alone."""
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) in (["b", "c"], ["c", "b"]), "the test is blind"
    assert circle({name: imports(name) for name in FILES}) == []


def test_the_picture_has_a_line_for_every_file():
    picture = DESIGN.read_text(encoding="utf-8").partition("```text\n")[2].partition("```")[0]
    drawn, folders = set(), [""]
    for line in picture.splitlines()[1:]:
        depth = (len(line) - len(line.lstrip())) // 2
        name = line.split()[0]
        if name.endswith("/"):
            folders = [*folders[:depth], name]
        else:
            drawn.add("".join(folders[1:depth]) + name.removesuffix(".py"))
    expected = {name for name in FILES if not name.endswith("/__init__")}
    assert drawn == expected


def test_every_public_name_has_a_docstring():
    assert all(getattr(peft_panacea, name).__doc__ for name in peft_panacea.__all__)


@pytest.mark.mechanics
def test_the_size_of_the_house():
    lengths = {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in FILES.items()}
    largest = max(lengths, key=lengths.get)
    print(
        f"house: {len(lengths)} files in {len({room(name) for name in FILES})} rooms, median "
        f"{statistics.median(lengths.values()):.0f} lines, largest {lengths[largest]} ({largest}), circles: "
        f"{len(circle({name: imports(name) for name in FILES}))}"
    )
    assert statistics.median(lengths.values()) <= 130
