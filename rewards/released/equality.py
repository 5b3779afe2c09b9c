"""Answer equality of the released MM-Zero: mathruler's, behind a guard.

mathruler 0.1.0 compares normal forms and, where they differ, asks sympy whether the difference of
the two answers simplifies to zero. It is neither transitive nor careful ("Monday" equals "Mon",
"ab" equals "ba"), and the released code depends on that. sympy, though, evaluates what a model
wrote: `9**9**9` against `1.5` never ends and no timeout stops it, for the loop is in C. So the
guard reads the expression that sympy would evaluate and bounds what it would cost; nothing is
evaluated to find that out.
"""

import ast
import builtins
from collections.abc import Callable, Iterator
from functools import cache
from types import BuiltinFunctionType

from rewards.released.effort import is_affordable

Equal = Callable[[str, str], bool]
"""equal(given, truth), not always the same in the other direction."""

MAX_CHARS = 20_000
"""Longer answers are equal only where they are the same text; a reply of 4096 tokens fits."""
MAX_EXPRESSION_CHARS = 1_000
"""sympy is not asked about a longer difference of two answers."""


def grade_answer(given: str, truth: str) -> bool:
    """mathruler's verdict on `given`, the label being `truth`; False where it could not be had.

    The guard decides only where the normal forms differ and sympy would be asked, and says False.
    Mostly the released code hangs there, or (in the services) is cut off after ten seconds and
    says False too; a bound being a bound, a few expressions are refused that sympy would finish.
    Refused are numbers of a million digits, powers of sums with hundreds of terms, functions at
    large arguments, attribute access, repetition of lists and strings, and more than
    `MAX_EXPRESSION_CHARS`. Where mathruler raises, the answer is False.
    """
    if len(given) > MAX_CHARS or len(truth) > MAX_CHARS:
        return given.strip() == truth.strip()
    from mathruler import grader

    try:
        if not all(_is_affordable(expression) for expression in _evaluated(given, truth)):
            return False
        return bool(grader.grade_answer(given, truth))
    except Exception:  # noqa: BLE001 - whatever two answers provoke in there, they are not equal
        return False


def either_way(first: str, second: str, *, equal: Equal = grade_answer) -> bool:
    """True where one of the two answers is right with the other as the label."""
    return equal(first, second) or equal(second, first)


def _evaluated(given: str, truth: str) -> Iterator[str]:
    """The expressions that mathruler may have sympy evaluate to compare the two answers.

    It compares the elements of tuples in order and stops at the first that differ; whether sympy
    is ever asked about a later pair does not matter, since a refusal means False either way.
    """
    from mathruler import grader
    from mathruler.math_normalize import normalize_answer

    if normalize_answer(truth) == normalize_answer(given):
        return
    ours, theirs = grader._normalize(truth), grader._normalize(given)
    if ours == theirs or not theirs:
        return
    elements = grader.split_tuple(ours), grader.split_tuple(theirs)
    if len(elements[0]) != len(elements[1]):
        return
    for ours, theirs in zip(*elements, strict=True):
        if grader._is_frac(ours) and grader._is_frac(theirs):
            continue
        if grader._str_is_int(ours) != grader._str_is_int(theirs):
            continue
        expression = f"({ours})-({theirs})"
        if grader.should_allow_eval(expression):
            yield expression


def _is_affordable(expression: str) -> bool:
    """True where sympy can parse and simplify `expression` in finite, small time."""
    if len(expression) > MAX_EXPRESSION_CHARS:
        return False
    code = _code(expression)
    return code is None or is_affordable(code)


def _code(expression: str) -> ast.expr | None:
    """What sympy would evaluate for `expression`; None where it is no expression at all."""
    from sympy.parsing import sympy_parser

    rules = (
        *sympy_parser.standard_transformations,
        sympy_parser.implicit_multiplication_application,
    )
    try:
        code = sympy_parser.stringify_expr(expression.replace("^", "**"), {}, _names(), rules)
        return ast.parse(code, mode="eval").body
    except Exception:  # noqa: BLE001 - mathruler meets the same error, whichever it is, and says no
        return None


@cache
def _names() -> dict[str, object]:
    """The names that sympy's parser knows."""
    import sympy

    functions = {k: v for k, v in vars(builtins).items() if isinstance(v, BuiltinFunctionType)}
    return {name: getattr(sympy, name) for name in sympy.__all__} | functions
