"""`--help` of the recipes, read from the source, because torch and TRL take seconds to import."""

import ast
import sys
import textwrap
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

HERE = Path(__file__).parent
PACKAGE = Path(find_spec("peft_panacea").origin).parent
SHARED = (HERE / "blocks.py", HERE / "search.py", PACKAGE / "training" / "decorrelation.py")
DOCS = "https://huggingface.co/docs/trl/{}_trainer#trl.{}Config"


def answer_help(purpose: str, trainer: str, *own: str) -> None:
    """With `--help`, print what a recipe does and its flags, and exit; `--help_all` is left to TRL's parser.

    `trainer` is TRL's, such as DPO, and `own` the further classes of flags, of the running script or of `SHARED`.
    """
    if "--help_all" in sys.argv:
        sys.argv[sys.argv.index("--help_all")] = "--help"
        return
    if not {"-h", "--help"} & set(sys.argv):
        return
    adapter = {name: default for name, _, default, _ in fields(PACKAGE / "tuner" / "config.py", "PanaceaConfig")}
    groups = [("The recipe, its data and its adapter", HERE / "arguments.py", "RecipeArguments")]
    for name in own:
        files = (Path(sys.argv[0]), *SHARED)
        path = next(path for path in files if f"class {name}" in path.read_text(encoding="utf-8"))
        groups.append((f"Of {path.name}" if path in SHARED else "This recipe alone", path, name))
    groups += [("Preferences", PACKAGE / "training" / "arguments.py", "PreferenceArguments")]
    print(f"{purpose.strip()}\n\n--config FILE.yaml gives any of the flags; those behind it have precedence.")
    for title, path, name in groups:
        print(f"\n{title}:")
        for flag, kind, default, text in fields(path, name):
            shown = adapter[flag] if default == "None" and flag in adapter else default
            print(f"  --{flag}{kind}" + (f"  [{shown}]" if shown else "  (must be given)"))
            print(textwrap.fill(text, 110, initial_indent=" " * 6, subsequent_indent=" " * 6))
    print(f"\nAll flags of trl.{trainer}Config as well, such as --max_steps and --learning_rate, here 0.003:")
    print(f"{DOCS.format(trainer.lower(), trainer)}; --help_all lists them.")
    raise SystemExit


def fields(path: Path, name: str) -> Iterator[tuple[str, str, str, str]]:
    """Flag, choices, default and help of each field of a dataclass; the default is empty where there is none."""
    classes = (node for node in ast.parse(path.read_text(encoding="utf-8")).body if isinstance(node, ast.ClassDef))
    for node in next(one for one in classes if one.name == name).body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.value, ast.Call):
            said = {keyword.arg: keyword.value for keyword in node.value.keywords}
            default = (
                "none" if "default_factory" in said else ast.unparse(said["default"]) if "default" in said else ""
            )
            kind = ast.unparse(node.annotation)
            choices = kind.partition("Literal[")[2].partition("]")[0].replace("'", "").replace(", ", ",")
            values = f" {{{choices}}}" if choices else " …" if kind.startswith("list[") else ""
            yield node.target.id, values, default, ast.literal_eval(said["metadata"])["help"]
