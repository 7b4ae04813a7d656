"""The rooms of the house: who may import whom, and how large a file may grow."""

import ast
from pathlib import Path

import pytest

import peft_panacea

SOURCE = Path(peft_panacea.__file__).parent

# What each module may import of this package; `tuner` could move into PEFT as it is.
ALLOWED = {
    "__init__": {"_registration", "tuner"},
    "_loading": {"tuner"},
    "_registration": {"_loading", "tuner"},
    "aggregation": set(),
    "completions": set(),
    "data": {"data"},
    "extras": set(),
    "front": {"completions", "extras", "front", "metrics", "rewards", "seeding", "tuner"},
    "metrics": {"extras"},
    "plots": {"extras", "plots"},
    "rewards": set(),
    "seeding": set(),
    "simplex": {"seeding"},
    "training": {"aggregation", "simplex", "training", "tuner"},
    "tuner": {"tuner"},
}


def modules() -> list[Path]:
    return sorted(SOURCE.rglob("*.py"))


def room(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imported_rooms(path: Path) -> set[str]:
    package = path.relative_to(SOURCE).parts[:-1]
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom) and node.level:
            up = package[: len(package) - node.level + 1]
            names = [(*up, *(node.module or alias.name).split(".")) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("peft_panacea"):
            names = [tuple(node.module.split(".")[1:])]
        elif isinstance(node, ast.Import):
            names = [tuple(a.name.split(".")[1:]) for a in node.names if a.name.startswith("peft_panacea")]
        rooms |= {name[0] for name in names if name}
    return rooms


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(SOURCE)))
def test_arrows_point_one_way(path):
    assert imported_rooms(path) <= ALLOWED[room(path)]


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(SOURCE)))
def test_files_stay_small(path):
    assert len(path.read_text().splitlines()) <= 300


def test_every_public_name_has_a_docstring():
    assert all(getattr(peft_panacea, name).__doc__ for name in peft_panacea.__all__)
