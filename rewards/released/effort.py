"""What it would cost sympy to evaluate and simplify an expression; nothing is evaluated here.

An expression is walked once. Of every part we keep an upper bound of the digits of its numbers
and of the terms that it has when multiplied out; past a limit it is not affordable. The limits are
set where sympy 1.14 needs a second or two, so what is refused hardly ever has a verdict at all.
"""

import ast
import math
from dataclasses import dataclass
from fractions import Fraction

MAX_BITS = 4e6
"""Of a numerator or denominator: 99999! has 1.5e6, 7**7**7 has 2.3e6."""
MAX_COEFFICIENT_BITS = 1_000
"""Of the numbers in an expression with letters."""
MAX_TERMS = 256
"""Of a numerator or denominator, multiplied out."""
MAX_DECIMAL_EXPONENT = 100_000
"""Of a literal such as 1e100000, which becomes a number of that many digits."""
MAX_DEGREE = 256
"""Of a sum, or of a fraction of sums, which sympy divides out."""
MAX_ARGUMENT = 1_000
"""Of a function other than roots and factorials: `ff(x, n)` and `eye(n)` take n steps or more."""
MAX_SHIFT_BITS = 6
"""Of the numbers in `(x + 50)!`, which is multiplied out against other factorials."""
MAX_EXPONENT_BITS = 20
"""Of the numbers in an exponent with letters."""
MAX_RADICAND_BITS = 2_000
"""Of a number under a root, which sympy factors in part."""

_PREFIXES = frozenset({"0x", "0o", "0b"})
_EXACT_BITS = 64
_FLOAT_BITS = 53.0
_NUMBERS = frozenset({"Integer", "Float", "Number", "Rational"})
_NAMES = frozenset({"Symbol", "Function"})


class _TooMuch(Exception):
    """Past a limit; never leaves this module."""


def _dense(degree: float) -> float:
    """Number of all terms up to a degree, in two letters."""
    return (degree + 1.0) * (degree + 1.0)


@dataclass(frozen=True, slots=True)
class _Sum:
    """A polynomial in at most two letters: sympy is not asked about more."""

    terms: float = 1.0
    degree: float = 0.0

    def __add__(self, other: "_Sum") -> "_Sum":
        return _Sum(self.terms + other.terms, max(self.degree, other.degree))

    def __mul__(self, other: "_Sum") -> "_Sum":
        degree = self.degree + other.degree
        return _Sum(min(self.terms * other.terms, _dense(degree)), degree)

    def power(self, times: float) -> "_Sum":
        degree = self.degree * times
        if self.terms == 1:
            return _Sum(1.0, degree)
        if times > MAX_TERMS:
            raise _TooMuch
        chosen = math.comb(int(times + self.terms) - 1, int(self.terms) - 1)
        return _Sum(min(float(chosen), _dense(degree)), degree)


@dataclass(frozen=True, slots=True)
class _Bound:
    """Upper bounds of one part of an expression, `above` / `below`."""

    exact: Fraction | None = None
    """Its value, where it is a short number."""
    bits: float = 1.0
    """Of the longest number in it."""
    above: _Sum = _Sum()
    below: _Sum = _Sum()
    is_container: bool = False
    """A list, a string, anything but a number or a term."""

    @property
    def is_number(self) -> bool:
        return not self.is_container and self.above.degree == self.below.degree == 0

    @property
    def magnitude(self) -> float:
        """Of a number."""
        if self.exact is not None:
            return abs(float(self.exact))
        return 2.0**self.bits if self.bits < 1000 else math.inf


_LETTER = _Bound(bits=0.0, above=_Sum(1.0, 1.0))
_CONTAINER = _Bound(is_container=True)
_REWRITTEN = _Sum(4.0, 1.0)
"""A factorial, a cosecant or `x**y`, whose powers sympy rewrites in many ways."""


def is_affordable(code: ast.expr) -> bool:
    """True where evaluating and simplifying `code`, as sympy's parser writes it, ends soon."""
    try:
        _bound(code)
    except (_TooMuch, RecursionError, OverflowError):
        return False
    return True


def _bound(node: ast.AST) -> _Bound:
    match node:
        case ast.BinOp(left=left, op=op, right=right):
            return _checked(_combined(_bound(left), op, _bound(right)))
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            inner = _bound(operand)
            return inner if inner.exact is None else _number(-inner.exact)
        case ast.UnaryOp(operand=operand):
            return _bound(operand)
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]):
            return _checked(_called(name, args))
        case ast.Constant(value=int() | float() as value) if math.isfinite(value):
            return _checked(_number(Fraction(value)))
        case ast.Name():
            return _LETTER
        case ast.Attribute():
            raise _TooMuch
    for child in ast.iter_child_nodes(node):
        _bound(child)
    return _CONTAINER


def _combined(left: _Bound, op: ast.operator, right: _Bound) -> _Bound:
    if left.is_container or right.is_container:
        if isinstance(op, ast.Mult | ast.Pow):
            raise _TooMuch
        return _CONTAINER
    match op:
        case ast.Pow():
            return _power(left, right)
        case ast.LShift() if right.is_number:
            return _Bound(bits=left.bits + right.magnitude)
        case ast.Add() | ast.Sub():
            above = left.above * right.below + right.above * left.below
            below = left.below * right.below
        case ast.Div() | ast.FloorDiv() | ast.Mod():
            above, below = left.above * right.below, left.below * right.above
        case _:
            above, below = left.above * right.above, left.below * right.below
    if left.exact is not None and right.exact is not None:
        return _calculated(left.exact, op, right.exact)
    if left.is_number and right.is_number:
        above = below = _Sum()
    return _Bound(None, left.bits + right.bits + 1, above, below)


def _calculated(left: Fraction, op: ast.operator, right: Fraction) -> _Bound:
    match op:
        case ast.Add():
            return _number(left + right)
        case ast.Sub():
            return _number(left - right)
        case ast.Div() if right:
            return _number(left / right)
        case _:
            return _number(left * right)


def _power(base: _Bound, exponent: _Bound) -> _Bound:
    if base.exact is not None and abs(base.exact) in (0, 1):
        return base
    if not exponent.is_number:
        if exponent.bits > MAX_EXPONENT_BITS:
            raise _TooMuch
        times = 2.0**exponent.bits
        inner = (base.above * base.below).power(times) * exponent.above * exponent.below
        return _Bound(None, base.bits * times, inner * _REWRITTEN)
    times = max(1.0, exponent.magnitude)
    bits = base.bits * times
    if base.is_number:
        if not (exponent.exact and exponent.exact.denominator == 1):
            return _root(base, bits)
        if base.exact is None or bits > _EXACT_BITS:
            return _Bound(bits=bits)
        return _number(base.exact ** int(exponent.exact))
    if not bits <= MAX_COEFFICIENT_BITS:
        raise _TooMuch
    above, below = base.above.power(math.ceil(times)), base.below.power(math.ceil(times))
    is_below = exponent.exact is not None and exponent.exact < 0
    return _Bound(None, bits, below, above) if is_below else _Bound(None, bits, above, below)


def _called(name: str, args: list[ast.expr]) -> _Bound:
    if name in _NAMES:
        return _LETTER
    if name in _NUMBERS and len(args) == 1:
        return _literal(args[0])
    inner = [_bound(arg) for arg in args]
    numbers = [bound for bound in inner if bound.is_number]
    if name == "Rational" and len(numbers) == 2:
        return _combined(numbers[0], ast.Div(), numbers[1])
    if name.startswith("factorial"):
        if not numbers:
            return _shifted(inner)
        n = max(2.0, numbers[0].magnitude)
        return _Bound(bits=max(_FLOAT_BITS, n * math.log2(n)))
    for number in numbers:
        if name == "sqrt":
            return _root(number, number.bits)
        if number.magnitude > MAX_ARGUMENT:
            raise _TooMuch
    above = _REWRITTEN if name == "csc" else _Sum()
    for bound in inner:
        above = above * bound.above * bound.below
    return _Bound(None, max((bound.bits for bound in inner), default=0.0), above)


def _shifted(inner: list[_Bound]) -> _Bound:
    """The factorial of a term with letters."""
    if any(bound.bits > MAX_SHIFT_BITS for bound in inner):
        raise _TooMuch
    return _Bound(bits=0.0, above=_REWRITTEN)


def _root(number: _Bound, bits: float) -> _Bound:
    """A power of a number that is none itself: sums of such are multiplied out like letters."""
    if number.bits > MAX_RADICAND_BITS:
        raise _TooMuch
    # A root of a decimal is a decimal.
    is_decimal = number.exact is not None and number.exact.denominator > 1
    return _Bound(None, max(bits, _FLOAT_BITS if is_decimal else 0.0), _LETTER.above)


def _literal(arg: ast.expr) -> _Bound:
    """What `Integer(12)`, `Float('1.5e3')` or a nested such call stands for."""
    if not isinstance(arg, ast.Constant):
        return _bound(arg)
    text = str(arg.value).lower()
    exponent = "" if text[:2] in _PREFIXES else text.partition("e")[2]
    if exponent and abs(float(exponent)) > MAX_DECIMAL_EXPONENT:
        raise _TooMuch
    try:
        return _number(Fraction(int(text, 0) if text[:2] in _PREFIXES else text))
    except ValueError:
        return _CONTAINER


def _number(value: Fraction) -> _Bound:
    bits = max(value.numerator.bit_length(), value.denominator.bit_length())
    return _Bound(value if bits <= _EXACT_BITS else None, float(bits))


def _checked(bound: _Bound) -> _Bound:
    above, below = bound.above, bound.below
    limit = MAX_BITS if bound.is_number else MAX_COEFFICIENT_BITS
    if not bound.bits <= limit or max(above.terms, below.terms) > MAX_TERMS:
        raise _TooMuch
    if max(above.terms, below.terms) > 1 and max(above.degree, below.degree) > MAX_DEGREE:
        raise _TooMuch
    return bound
