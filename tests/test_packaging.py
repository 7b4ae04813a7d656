"""What pyproject.toml promises: requirements, pins, versions, and what is in the archives."""

import ast
import subprocess
import sys
import tarfile
import tomllib
from importlib import import_module
from pathlib import Path
from zipfile import ZipFile

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import peft_panacea

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
EXTRAS = PYPROJECT["project"]["optional-dependencies"]
EXTRA_OF = {
    "convert": "gguf",
    "data": "train",
    "training": "train",
    "front": "eval",
    "playground": "play",
    "metrics": "eval",
    "plots": "eval",
    "serving": "serve",
    "command": "serve",
}
"""All other rooms need none."""
CALLERS = {"serving": {"vllm"}}
"""What calls a room and is therefore there; it is imported in no other."""


def names(requirements: list[str]) -> set[str]:
    return {canonicalize_name(Requirement(text).name) for text in requirements}


def imported(path: Path) -> set[str]:
    """The packages that a file imports, in functions and for type checkers, too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add(node.module)
    return {name.split(".")[0] for name in found} - sys.stdlib_module_names - {"peft_panacea"}


def test_whatever_is_imported_is_required_or_belongs_to_the_extra_of_the_module():
    source = ROOT / "src/peft_panacea"
    for path in source.rglob("*.py"):
        room = path.relative_to(source).parts[0].removesuffix(".py")
        allowed = names(PYPROJECT["project"]["dependencies"] + EXTRAS.get(EXTRA_OF.get(room), []))
        allowed |= CALLERS.get(room, set())
        assert {canonicalize_name(name) for name in imported(path)} <= allowed, path


def test_every_requirement_has_a_tested_version_within_its_bounds():
    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    pins = {canonicalize_name(name): version for name, version in pins.items()}
    own = PYPROJECT["project"]["dependencies"] + PYPROJECT["build-system"]["requires"]
    for requirement in map(Requirement, own + [text for extra in EXTRAS.values() for text in extra]):
        name = canonicalize_name(requirement.name)
        assert name == "peft-panacea" or requirement.specifier.contains(pins[name]), requirement


def test_the_citation_is_of_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == peft_panacea.__version__


@pytest.mark.parametrize("group", PYPROJECT["project"]["entry-points"])
def test_entry_points_are_functions(group):
    for value in PYPROJECT["project"]["entry-points"][group].values():
        module, _, name = value.partition(":")
        assert callable(getattr(import_module(module), name))


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the source distribution and of the wheel that is made from it."""
    folder = tmp_path_factory.mktemp("archives")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT]
    subprocess.run(command, check=True)
    return folder


def test_the_wheel_is_the_package(archives):
    with ZipFile(next(archives.glob("*.whl"))) as wheel:
        found = {name for name in wheel.namelist() if ".dist-info/" not in name}
    source = ROOT / "src"
    assert found == {
        str(p.relative_to(source)) for p in source.glob("peft_panacea/**/*") if p.suffix in (".py", ".typed")
    }
    assert "peft_panacea/py.typed" in found


def test_the_source_distribution_holds_what_the_tests_read_and_no_more(archives):
    path = next(archives.glob("*.tar.gz"))
    with tarfile.open(path) as archive:
        found = {member.name.split("/")[1] for member in archive}
    folders = {"benchmarks", "docs", "examples", "src", "tests"}
    build = {".gitignore", "Makefile", "PKG-INFO", "constraints.txt", "mkdocs.yml", "pyproject.toml"}
    assert found == folders | build | {"CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md", "LICENSE", "README.md"}
    assert path.stat().st_size < 5e6
