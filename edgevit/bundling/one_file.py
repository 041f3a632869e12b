"""One Python file from a backend's runtime and the program: what the parts import of each other goes."""

from __future__ import annotations

import ast
from pathlib import Path

from edgevit.backends import board_runtime
from edgevit.backends.protocol import OnBoard

PROGRAM = Path(__file__).with_name("program.py")
PICTURES = Path(__file__).with_name("device_pictures.py")


def one_file(on_board: OnBoard) -> str:
    """The source of run.py for a backend: its modules one after the other, then the program."""
    parts = [Path(board_runtime.__file__), *on_board.beside, on_board.runtime, PICTURES]
    names = {path.stem for path in parts}
    trees = {path: ast.parse(path.read_text(encoding="utf-8")) for path in [*parts, PROGRAM]}
    imports: list[str] = []
    for tree in trees.values():
        for node in tree.body:
            own = is_own(node, names)
            if isinstance(node, ast.Import | ast.ImportFrom) and not own and not is_future(node):
                imports.append(ast.unparse(node))
    program = trees[PROGRAM]
    documentation = ast.get_docstring(program, clean=False) or ""
    lines = [f'"""{documentation}"""', "", "from __future__ import annotations", ""]
    lines += sorted(set(imports), key=lambda line: (line.startswith("from"), line))
    for path in parts:
        lines += ["", "", f"# {path.name} " + "-" * 60, body_of(path, trees[path], names)]
        if path in on_board.beside:
            lines += ["", f"{path.stem} = sys.modules[__name__]  # the parts below call it so"]
    lines += ["", "", "# what is done " + "-" * 60, body_of(PROGRAM, program, names)]
    return "\n".join(lines).rstrip() + "\n"


def body_of(path: Path, tree: ast.Module, names: set[str]) -> str:
    """A module's source without its documentation and imports."""
    source = path.read_text(encoding="utf-8").splitlines()
    kept: list[str] = []
    start = 0
    for number, node in enumerate(tree.body):
        first = min([node.lineno, *(each.lineno for each in getattr(node, "decorator_list", ()))]) - 1
        dropped = isinstance(node, ast.Import | ast.ImportFrom) or is_own(node, names)
        dropped = dropped or (number == 0 and isinstance(node, ast.Expr))
        if not dropped:
            kept += source[start:first]  # comments and blank lines before it
            kept += source[first : node.end_lineno]
        start = node.end_lineno or first
    return "\n".join(kept).strip("\n")


def is_own(node: ast.stmt, names: set[str]) -> bool:
    """Whether a statement only brings in another of the parts."""
    if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "__package__":
        return True
    return isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in {"edgevit", *names}


def is_future(node: ast.Import | ast.ImportFrom) -> bool:
    """Whether an import turns on a feature: it must stand first, and once."""
    return isinstance(node, ast.ImportFrom) and node.module == "__future__"
