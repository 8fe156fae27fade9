"""Short files of short functions: limits that no linter here counts in lines."""

import ast
import io
import tokenize

from support.common import ROOT

MODULE, FUNCTION = 350, 60
LAYOUT = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
SOURCES = sorted(path for folder in ("moee_hf", "upload_scripts", "tests") for path in (ROOT / folder).rglob("*.py"))


def lines_of_code(source: str) -> set[int]:
    """Numbers of the lines with code: no comments, docstrings or empty lines."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    code = {line for t in tokens if t.type not in LAYOUT for line in range(t.start[0], t.end[0] + 1)}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            code -= {*range(node.lineno, node.end_lineno + 1)}
    return code


def functions(source: str) -> dict[str, int]:
    """Lines of code of each function, by name."""
    code, nodes = lines_of_code(source), ast.walk(ast.parse(source))
    found = [node for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    return {node.name: len(code & {*range(node.lineno, node.end_lineno + 1)}) for node in found}


def test_what_is_counted():
    source = '''def f(a):
    """Docstring
    of two lines.
    """

    # a comment
    text = """two
lines"""
    return text, a  # 4 lines in all
'''
    assert functions(source) == {"f": 4}


def test_modules():
    sizes = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in SOURCES}
    assert len(sizes) > 100
    assert {path: size for path, size in sizes.items() if size > MODULE} == {}


def test_functions():
    sizes = {
        f"{path.relative_to(ROOT)}:{name}": size
        for path in SOURCES
        for name, size in functions(path.read_text()).items()
    }
    assert {name: size for name, size in sizes.items() if size > FUNCTION} == {}
