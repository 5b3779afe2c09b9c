r"""Formulas: which texts are one, and the canonical form of each.

`\sqrt{8}` and `2\sqrt{2}` are one number in two spellings: that takes algebra. Here math-verify's
LaTeX reader (latex2sympy2_extended) reads and sympy computes, behind two guards, since either
would work on "9**9**9" until memory ends. The first (`latex`) lets through only short texts made
of known words, without factorials, towers of powers, long numbers or deep nesting; the second
(`_check_size`) bounds what the parsed formula would expand to, before anything is computed. The
libraries are imported on first use.
"""

import re
from fractions import Fraction
from math import comb
from typing import Any

MAX_CHARS = 120
MAX_DIGITS = 60
MAX_DEPTH = 6
MAX_TERMS = 64
"""Of the expanded formula."""
MAX_BITS = 512
"""Of all integers in the expanded formula together."""
MAX_NAMES = 5
"""Different variables, constants and functions: algebra is exponential in them."""
MAX_FORM = 1000
"""Characters of a canonical form."""

_GREEK = ("alpha", "beta", "gamma", "delta", "theta", "lambda", "mu", "rho", "sigma", "phi")
_LETTERS = {"pi": r"\pi"} | {rf"\{name}": rf"\{name}" for name in ("pi", *_GREEK)}
_FUNCTIONS = {name: rf"\{name}" for name in ("sqrt", "sin", "cos", "tan", "ln")}
_WORDS = {
    **_FUNCTIONS,
    **{command: command for command in _FUNCTIONS.values()},
    **dict.fromkeys(("exp", r"\exp"), "e^"),
    **dict.fromkeys((r"\frac", r"\dfrac", r"\tfrac", r"\cfrac"), r"\frac"),
    **dict.fromkeys((r"\cdot", r"\times", r"\ast"), "*"),
    **dict.fromkeys((r"\left", r"\right"), ""),
    r"\div": "/",
}

# What tells a formula from a name, a range, a date or a size: "Q1", "10-20", "3/4/2020", "2x3"
# have none of these and stay phrases.
_OPERATION = re.compile(
    r"[\^*+]|\\[a-z]|(?<![a-z])(?:pi|sqrt|sin|cos|tan|ln|exp)(?![a-z])"
    r"|(?<![\w.])(?!0\d|1[a-z])[\d.]+(?:[a-z]|[xyz]{2,3})(?!\w)"
    r"|(?<![a-z])[a-z]\s*[-/]\s*[\d(]|[\d)]\s*[-/]\s*(?:[a-z](?![a-z])|\()|\)\s*[-/]"
)
_WORD = re.compile(r"\\?[a-z]+")
_DECIMAL = re.compile(r"\d*\.\d+|\d+\.")
_SIGNED_POWER = re.compile(r"\^\s*([+-]?\s*(?:\d+|[a-z]|\\pi|\\frac\{\d+\}\{\d+\}))")
_ARGUMENT = re.compile(r"(?:\^|\\sqrt)\s*\(")
_POWER = re.compile(r"\^\s*\{(?:[^{}^]|\{[^{}^]*\})*\}(?!\s*\^)")
_ATOM = r"(?:\d++|\\frac\{\d+\}\{\d+\}|(?!\\(?:frac|sqrt|sin|cos|tan|ln))\\?[a-z]++)"
_REFUSED = re.compile(
    r"[^a-z\d\s\\+\-*/^(){}\[\]]"  # also "!", "=", ",", "_", "|"
    r"|\d\s+\d|[)\]]\s*\d"
    r"|[-+*/^]\s*$|^\s*[*/^]|[-+*/^({]\s*[+*/^]|[-+/]\s*-"
    rf"|/\s*{_ATOM}\s*(?:[a-z(]|\\(?!cdot))"  # "1/2x" has two readings
)


def canonical_expression(text: str) -> str | None:
    r"""The canonical form of the formula `text`, in lower case; None where it is none for us.

    A rational value is a reduced fraction ("2^3" -> "8"), anything else what sympy prints of the
    expanded formula without roots in its denominator ("\sqrt{8}" -> "2*sqrt(2)", "(x+1)^2" ->
    "x**2 + 2*x + 1", "1+1/x" -> "(x + 1)/x"). There is no normal form for everything (nested
    roots, identities of sines): one value can then have two forms, which count as different.
    """
    source = latex(text)
    if source is None:
        return None
    try:
        return _computed(source)
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001  both libraries raise anything on what they can't read
        return None


def latex(text: str) -> str | None:
    """`text`, a formula in lower-case LaTeX or plain notation, as LaTeX that is read one way.

    None where it is no formula, is ambiguous ("1/2x"), or fails the first guard. Cheap.
    """
    if len(text) > MAX_CHARS or not _OPERATION.search(text):
        return None
    if sum(map(str.isdigit, text)) > MAX_DIGITS:
        return None
    try:
        text = _WORD.sub(_word, text.replace("**", "^"))
        text = _SIGNED_POWER.sub(r"^{\1}", _braced(_DECIMAL.sub(_fraction, text)))
    except ValueError:
        return None
    if _REFUSED.search(text) or "^" in _POWER.sub("", text) or _depth(text) > MAX_DEPTH:
        return None
    return text.replace("*", r" \cdot ")


def _word(match: re.Match[str]) -> str:
    """A known word as its LaTeX command; a run of two letters as their product."""
    word, rest = match[0], match.string[match.end() :].lstrip()
    if word in _WORDS:
        return f"{_WORDS[word]} " if rest[:1].isalpha() else _WORDS[word]
    if word not in _LETTERS and (word[0] == "\\" or (len(word) > 2 and set(word) - set("xyz"))):
        raise ValueError(f"{word} is no part of a formula")
    if rest[:1].isdigit() or rest[:1] == ".":
        raise ValueError("a name with a number")
    product = _LETTERS.get(word) or " ".join(word)
    if rest[:1] == "(" and match.string[: match.start()].rstrip().endswith("/"):
        raise ValueError("two readings")
    # The library takes "f(x)" for a function, which no answer here means.
    return f"{product}*" if rest[:1] == "(" else f"{product} "


def _fraction(match: re.Match[str]) -> str:
    """A decimal as an exact fraction; the library would make it a float."""
    value = Fraction(f"0{match[0]}0")
    return rf"\frac{{{value.numerator}}}{{{value.denominator}}}"


def _braced(text: str) -> str:
    """Parentheses behind "^" and the root as braces. ValueError where one is not closed."""
    while match := _ARGUMENT.search(text):
        depth, end = 1, match.end()
        while depth:
            if end == len(text):
                raise ValueError("not closed")
            depth += {"(": 1, ")": -1}.get(text[end], 0)
            end += 1
        inside = text[match.end() : end - 1]
        text = f"{text[: match.end() - 1]}{{{inside}}}{text[end:]}"
    return text


def _depth(text: str) -> int:
    deepest = depth = 0
    for mark in text:
        depth += {"(": 1, "{": 1, "[": 1, ")": -1, "}": -1, "]": -1}.get(mark, 0)
        deepest = max(deepest, depth)
    return deepest


def _computed(source: str) -> str | None:
    """The canonical form of LaTeX that passed the first guard."""
    import sympy
    from latex2sympy2_extended import NormalizationConfig, latex2sympy

    config = NormalizationConfig(
        basic_latex=True,
        units=False,
        malformed_operators=True,
        nits=False,
        boxed="none",
        equations=False,
    )
    tree = latex2sympy(source, normalization_config=config)  # not evaluated
    if not isinstance(tree, sympy.Expr):
        return None
    _check_size(tree)
    value = tree.doit()
    if value.is_number:
        value = sympy.radsimp(sympy.sqrtdenest(value))
    above, below = sympy.fraction(sympy.cancel(sympy.together(sympy.expand(value))))
    above, below = sympy.expand(above), sympy.expand(below)
    value = sympy.expand(above / below) if below.is_number else above / below
    if value.has(sympy.zoo, sympy.nan, sympy.oo):
        return None
    form = str(value).casefold().replace("log(", "ln(")
    return form if len(form) <= MAX_FORM else None


def _check_size(tree: Any) -> None:
    """The second guard: ValueError where the expanded `tree` would exceed the bounds above."""
    if len(tree.atoms()) > MAX_TERMS:
        raise ValueError("large")
    names = {node for node in tree.atoms() if not node.is_Rational}
    if len(names) > MAX_NAMES:
        raise ValueError(f"{len(names)} names")
    _size(tree)


def _size(node: Any) -> tuple[int, int]:
    """Upper bounds for the terms of the expanded `node` and for the bits of its integers."""
    if node.is_Rational:
        return 1, node.p.bit_length() + node.q.bit_length()
    sizes = [_size(part) for part in node.args]
    if node.is_Pow:
        (terms, bits), (_, exponent_bits) = sizes
        power = _magnitude(node.exp, exponent_bits)
        terms, bits = comb(terms + power - 1, power) if power else 1, bits * power + power
    elif node.is_Mul:
        terms, bits = 1, sum(bits for _, bits in sizes)
        for factor, _ in sizes:
            terms *= factor
    else:
        terms, bits = sum(terms for terms, _ in sizes) or 1, sum(bits for _, bits in sizes)
    if terms > MAX_TERMS or bits > MAX_BITS:
        raise ValueError("would be large")
    return terms, bits


def _magnitude(exponent: Any, bits: int) -> int:
    """An integer that |exponent| does not exceed; what is symbolic is not multiplied out."""
    if exponent.is_Rational:
        return min(abs(exponent.p) // exponent.q + 1, MAX_BITS + 1)
    return 2**bits if exponent.is_number and bits < 10 else 1 if exponent.free_symbols else 1024
