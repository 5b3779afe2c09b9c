r"""The number that a formula of LaTeX is worth: "\frac{\sqrt{3}}{2}", "2\pi", "3:4", "12\%".

A parser of its own, without `eval` and without sympy: it reads numbers, the four operations,
powers, roots, factorials and functions of numbers, and nothing that has a variable. It agrees with
latex2sympy2 1.9.1, whose printed result MATH-V's code evaluates, on what that can evaluate: so
"1,000" is a thousand, "2\frac{1}{2}" a product, "\frac12" an error. A formula costs microseconds:
its length, its depth and its integers are bounded.
"""

import math
import re
from collections.abc import Callable, Mapping

MAX_CHARS = 300
_MAX_DEPTH = 30
_MAX_BITS = 20_000
_MAX_FACTORIAL = 1000

Number = int | float

_TOKEN = re.compile(
    r"\s+|\\,|\\q?quad(?![a-z])|\\displaystyle(?![a-z])|\$"
    r"|(?P<number>(?:\d*(?:,\d{3})*\.\d+|\d+(?:,\d{3})*)(?:\\%)?)"
    r"|(?P<word>\\[a-zA-Z]+|\\[{}]|\\\\|[a-zA-Z])|(?P<sign>[-+*/^:!_(){}\[\].|&'~,<>=])",
    re.ASCII,
)
_CLOSING = {"(": ")", "[": "]", "{": "}", "\\{": "\\}"}
_ENDS = (")", "]", "}", "\\}", ".", "&", "'", "~", "\\\\", "_")
"""Where the authors' parser stops without a complaint, whatever follows."""
_TIMES = ("*", "\\times", "\\cdot")
_OVER = ("/", ":", "\\div")
_FRACTIONS = ("\\frac", "\\dfrac", "\\tfrac")
_OPERANDS = (*_FRACTIONS, "\\sqrt", "\\pi", "\\binom", "\\dbinom", "\\lfloor")


def _exp(value: Number) -> float:
    if value == 1:
        raise ValueError("prints as a constant that the authors' code cannot evaluate")
    return math.exp(value)


_FUNCTIONS: Mapping[str, Callable[[Number], Number]] = {
    **{f"\\{name}": getattr(math, name) for name in ("sin", "cos", "tan", "sinh", "cosh", "tanh")},
    **{f"\\arc{name}": getattr(math, f"a{name}") for name in ("sin", "cos", "tan")},
    "\\exp": _exp,
}


def value_of(text: str, *, whole: bool = True) -> Number | None:
    """The value of a formula; None where it has none.

    `whole`: nothing may follow the formula. Otherwise what begins with a closing bracket or a
    period may, as in the authors' parser.
    """
    if len(text) > MAX_CHARS:
        return None
    try:
        reader = _Reader(_tokens(text))
        value = reader.sum()
        if reader.token and (whole or reader.token not in _ENDS):
            return None
        return value if isinstance(value, int) or math.isfinite(value) else None
    except (ValueError, ArithmeticError, TypeError):
        return None


def _tokens(text: str) -> list[str]:
    found, start = [], 0
    while start < len(text):
        match = _TOKEN.match(text, start)
        if not match:
            raise ValueError(f"no token at {start}")
        start = match.end()
        if match.lastgroup:
            found.append(match[0])
    return found


class _Reader:
    """Recursive descent over the tokens of one formula."""

    def __init__(self, tokens: list[str]) -> None:
        self._tokens = tokens
        self._at = 0
        self._depth = 0

    @property
    def token(self) -> str:
        """The next one; "" at the end."""
        return self._tokens[self._at] if self._at < len(self._tokens) else ""

    def sum(self) -> Number:
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise ValueError("too deep")
        value = self.product()
        while self.token in ("+", "-"):
            sign = self._next()
            term = self.product()
            value = value + term if sign == "+" else value - term
        self._depth -= 1
        return _bounded(value)

    def product(self, *, functions: bool = True) -> Number:
        """Factors with signs between them; those side by side bind closer."""
        value = self.signed(functions)
        while self.token in (*_TIMES, *_OVER):
            sign = self._next()
            factor = self.signed(functions)
            value = value * factor if sign in _TIMES else value / factor
            value = _bounded(value)
        return value

    def signed(self, functions: bool) -> Number:
        negative = False
        while self.token in ("+", "-"):
            negative ^= self._next() == "-"
        value = self._postfix()
        while self._begins(functions):
            value = _bounded(value * self._postfix())
        return -value if negative else value

    def _begins(self, functions: bool) -> bool:
        token = self.token
        if token.startswith("\\") and token in (*_FUNCTIONS, "\\log"):
            return functions
        is_number = token[-1:].isdigit() or token.endswith("\\%")
        return is_number or token.isalpha() or token in _CLOSING or token in _OPERANDS

    def _postfix(self) -> Number:
        value = self._power()
        while self.token == "!":
            self._next()
            if not isinstance(value, int) or value > _MAX_FACTORIAL:
                raise ValueError("no factorial")
            value = _bounded(math.factorial(value))
        return value

    def _power(self) -> Number:
        if self.token == "e" and self._ahead(1) == "^":
            self._at += 2
            return _exp(self._exponent())
        value = self._atom()
        while self.token == "^":
            self._next()
            value = _raised(value, self._exponent())
        return value

    def _exponent(self) -> Number:
        if self.token == "{":
            return self._group()
        if self.token[:1].isdigit() or self.token == "\\pi":
            return self._atom()
        raise ValueError("no exponent")

    def _atom(self) -> Number:
        token = self.token
        if token in _CLOSING:
            return self._group()
        self._next()
        if token == "\\pi":
            return math.pi
        if token in _FRACTIONS:
            return self._group("{") / self._group("{")
        if token == "\\sqrt":
            return self._root()
        if token == "\\log":
            return self._logarithm()
        if token in _FUNCTIONS:
            power = self._function_power()
            return _raised(_FUNCTIONS[token](self._argument()), power)
        if token in ("\\binom", "\\dbinom"):
            return math.comb(_small(self._group("{")), _small(self._group("{")))
        if token == "\\lfloor":
            value = math.floor(self.sum())
            self._expect("\\rfloor")
            return value
        return _literal(token)

    def _root(self) -> Number:
        degree = self._group("[") if self.token == "[" else 2
        value = self._group("{")
        return math.sqrt(value) if degree == 2 else _raised(value, 1 / degree)

    def _logarithm(self) -> Number:
        base: Number = 10
        if self.token == "_":
            self._next()
            base = self._group("{") if self.token == "{" else self._atom()
        return math.log(self._argument(), base)

    def _function_power(self) -> Number:
        if self.token != "^":
            return 1
        self._next()
        return self._exponent()

    def _argument(self) -> Number:
        if self.token in ("(", "{"):
            return self._group()
        return self.product(functions=False)

    def _group(self, opening: str = "") -> Number:
        token = self._next()
        if token not in _CLOSING or (opening and token != opening):
            raise ValueError("no group")
        value = self.sum()
        self._expect(_CLOSING[token])
        return value

    def _expect(self, token: str) -> None:
        if self._next() != token:
            raise ValueError(f"no {token}")

    def _ahead(self, distance: int) -> str:
        return (self._tokens[self._at + distance : self._at + distance + 1] or [""])[0]

    def _next(self) -> str:
        token = self.token
        self._at += 1
        return token


def _literal(token: str) -> Number:
    is_percent = token.endswith("\\%")
    digits = token.removesuffix("\\%").replace(",", "")
    value = float(digits) if "." in digits else int(digits)
    if is_percent:
        value = value / 100
    return int(value) if math.isfinite(value) and value == int(value) else value


def _raised(value: Number, power: Number) -> Number:
    is_integral = isinstance(value, int) and isinstance(power, int)
    if is_integral and abs(power) * max(1, int(value).bit_length()) > _MAX_BITS:
        raise ValueError("too large")
    result = value**power
    if isinstance(result, complex):
        raise ValueError("not real")
    return result


def _bounded(value: Number) -> Number:
    if isinstance(value, int) and value.bit_length() > _MAX_BITS:
        raise ValueError("too large")
    return value


def _small(value: Number) -> int:
    if not isinstance(value, int) or not 0 <= value <= _MAX_FACTORIAL:
        raise ValueError("no small number")
    return value
