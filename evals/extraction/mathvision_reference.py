r"""MATH-V's own reading and comparison of answers, step by step and bug for bug.

What the authors evaluate with latex2sympy and `eval` is read by `evals.extraction.formula_value`
instead, which runs no code of a model's. Known differences: a formula that would take them for
ever, or more than 300 characters, is no number here.
"""

from evals.extraction.formula_value import Number, value_of

_LETTERS = "ABCDE"
_FLAGS = (
    "the final answer is",
    "The final answer is",
    "the answer is",
    "The answer is",
    "the correct answer is",
    "The correct answer is",
    "the answer should be",
    "The answer should be",
)
_BOX = "oxed{"
_DROPPED_FIRST = (" ", "\\,")
_REPLACED = (
    ("\u221e", "\\infty"),
    ("+\\infty", "\\infty"),
    ("\\\\", "\\"),
    ("\n", ""),
    ("\\text", ""),
    ("\\mbox", ""),
    ("bmatrix", "pmatrix"),
    *((name, "") for name in ("\\left", "\\right", "^{\\circ}", "^\\circ", "{m}^3", "m^3")),
    *((name, "") for name in ("{units}", "units", "{km}", "km", "\\!")),
    ("\\\\", "\\"),
    ("tfrac", "frac"),
    ("dfrac", "frac"),
    *((name, "") for name in ("\\left", "\\right", "^{\\circ}", "^\\circ", "\\$", "$", "\\%")),
    (" .", " 0."),
    ("{.", "{0."),
)
_MAX_CHARS = 200_000


def model_answer(response: str) -> str:
    """What the authors take for the answer of a response; always some text."""
    text = _ending(response[-_MAX_CHARS:].strip())
    if _BOX not in text:
        text = _after_flags(text)
    elif text.count(_BOX) > 1:
        text = "\\boxed{" + text.split(_BOX)[-1]
    answer = _cleaned(_content(text.lower()))
    for letter in "abcde":
        answer = answer.replace(f"({letter})", letter)
    for letter in "abcde":
        answer = answer.replace(f"{{{letter}}}", letter)
    return answer.rstrip(".").lstrip(":").strip()


def is_equal(first: str, second: str) -> bool:
    """Their equality: the same text, tuples to two decimals, or values to two decimals."""
    first, second = first.lower(), second.lower()
    if not first.replace(" ", "") or not second.replace(" ", ""):
        return False
    if first.strip() == second.strip():
        return True
    first, second = _tuple(first), _tuple(second)
    if first == second:
        return True
    values = _rounded(first), _rounded(second)
    return None not in values and values[0] == values[1]


def _ending(text: str) -> str:
    """A letter where the response ends on " C." or begins with "C\\n"; a number after "is "."""
    for letter in _LETTERS:
        ends = (f" {letter}.", f" ({letter}).")
        begins = (f"{letter}\n", f"({letter})\n", f"({letter}) {letter}\n")
        if text.endswith(ends) or text.startswith(begins):
            text = letter
    last = text.split("is ")[-1].rstrip(".")
    return last if _is_number(last) else text


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _after_flags(text: str) -> str:
    for flag in _FLAGS:
        is_there = flag in text
        text = text.split(flag)[-1].strip()
        if is_there:
            text = text.split("\n")[0].split(". ")[0]
    return text


def _content(text: str) -> str:
    """What stands between the first opening box and the last brace; else all of it."""
    text = text.replace("{}", "")
    start, end = text.find(_BOX), text.rfind("}")
    found = text[start + len(_BOX) : end] if 0 <= start <= end - len(_BOX) else text
    closing, opening = found.find("}"), found.find("{")
    if closing >= 0 and (opening < 0 or closing < opening):
        found = found[:closing]
    return found.split("=")[-1].split("\\approx")[-1]


def _cleaned(text: str) -> str:
    for name in _DROPPED_FIRST:
        text = text.replace(name, "")
    for name, instead in _REPLACED:
        text = text.replace(name, instead)
    if text.startswith("."):
        text = "0" + text
    for mark in ("=", "\\approx"):
        if text.count(mark) == 1:
            text = text.split(mark)[-1]
    if "sqrt" in text:
        text = _braced_fractions(_braced_roots(text).replace(" ", ""))
    if text == "0.5":
        return "\\frac{1}{2}"
    return _slashed(text)


def _braced_roots(text: str) -> str:
    """A root of one character gets its braces."""
    head, *parts = text.split("\\sqrt")
    for part in parts:
        head += "\\sqrt" + (part if part[:1] in ("{", "") else f"{{{part[0]}}}{part[1:]}")
    return head


def _braced_fractions(text: str) -> str:
    """A fraction of two characters gets its braces; nothing changes where one is too short."""
    head, *parts = text.split("\\frac")
    for part in parts:
        head += "\\frac"
        if part.startswith("{"):
            head += part
        elif len(part) < 2:
            return text
        else:
            below = part[1:] if part[1] == "{" else f"{{{part[1]}}}{part[2:]}"
            head += f"{{{part[0]}}}{below}"
    return head


def _slashed(text: str) -> str:
    """ "3/4" as a fraction of LaTeX."""
    if text.count("/") != 1 or len(text) > 100:
        return text
    above, below = text.split("/")
    try:
        is_plain = text == f"{int(above)}/{int(below)}"
    except ValueError:
        return text
    return f"\\frac{{{int(above)}}}{{{int(below)}}}" if is_plain else text


def _tuple(text: str) -> str:
    """ "(1/2,3)" or "[1/2,3]" with its items as values to two decimals, where all have one."""
    items = text[1:-1].split(",")
    if len(items) < 2 or (text[0], text[-1]) not in (("(", ")"), ("[", "]")):
        return text
    shown = []
    for item in items:
        if "infty" in item or item in ("a", "-a"):
            shown.append(item)
        elif (value := _rounded(item)) is None:
            return text
        else:
            shown.append(str(value))
    return f"{text[0]}{','.join(shown)}{text[-1]}"


def _rounded(text: str) -> Number | None:
    _, is_assignment, right = text.partition("=")
    value = value_of(
        right if is_assignment and len(text.split("=")[0].strip()) == 1 else text, whole=False
    )
    return None if value is None else round(value, 2)
