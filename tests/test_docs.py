"""Every documented snippet runs, and prints what the page says it prints."""

import contextlib
import io
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_snippets(page, monkeypatch):
    """The `python` blocks of a page share a namespace; a `text` block right after one is its output."""
    monkeypatch.chdir(ROOT)
    namespace: dict[str, object] = {}
    printed = None
    for language, code in FENCE.findall(page.read_text(encoding="utf-8")):
        if language == "python":
            out = io.StringIO()
            with contextlib.redirect_stdout(out):
                exec(compile(code, page.name, "exec"), namespace)
            printed = out.getvalue()
        elif language == "text" and printed is not None:
            assert printed == code
            printed = None


def test_the_compatibility_page_names_tests_that_exist():
    named = re.findall(
        r"`(test_\w+\.py)::(test_\w+)`", (ROOT / "docs" / "compatibility.md").read_text(encoding="utf-8")
    )
    assert len(named) > 20
    for file, test in named:
        (path,) = (ROOT / "tests").rglob(file)
        assert f"def {test}(" in path.read_text(encoding="utf-8"), f"{file}::{test}"


def test_the_readme_lists_every_top_level_file():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for path in (
        "src/peft_panacea/",
        "tests/",
        "docs/",
        "examples/",
        "benchmarks/",
        "CHANGELOG.md",
        "CONTRIBUTING.md",
    ):
        assert path in readme
