r"""Inputs of the golden cases, and the cases worked by hand or written down as facts.

A reward's case is (function, args, expected, source); `votes 3/5` and the like are shares.
"""

from collections.abc import Iterator
from typing import Any

Row = tuple[str, list[Any], Any, str]

PAIRS = (
    *(("1/2", "0.5"), ("42.0", "42"), ("25%", "25"), ("$3,500", "3500"), ("5 cm", "5")),
    *(("Blue", "blue"), ("Monday", "Mon"), ("ab", "ba"), ("0.25", "25%"), ("6/8", "3/4")),
    *(("3.33", "3.333"), ("A.", "A"), ("yes", "Yes."), ("the blue bar", "blue")),
    *(("9007199254740993", "9007199254740992"), ("12345678901234567890", "12345678901234567891")),
    *(("99999999999999999999", "100000000000000000000"), ("4.99999999", "5")),
    *(("0.0000001", "0"), ("no", "on"), ("today", "to"), ("up", "pu"), ("Q1", "1Q")),
    *(("x=5", "y=5"), ("second", ""), ("", "second"), ("month", "year"), ("secondary", "ary")),
    *(("hourglass", "glass"), ("weekend", "end"), ("3%2", "32"), ("A or B", "A and B")),
    *(("5 million", "5000000"), ("None", "None"), ("None", "none"), ("", ""), ("n/a", "na")),
    *((r"\frac{1}{2}", "0.5"), (r"\frac{1}{2}", "1/2"), ("{42}", "42"), ("2sqrt(2)", "sqrt(8)")),
    *(("x^2+2x+1", "(x+1)^2"), ("(1,2)", "(1,2.0)"), ("(1,2)", "(2,1)"), ("[1,2)", "(1,2)")),
    *(("1,2", "1, 2"), ("7 3/4", "7.75"), ("-3", "3"), ("- 3", "-3"), ("+3", "3")),
    *(("1e3", "1000"), ("1e-9", "0"), ("inf", "inf"), ("nan", "1"), (r"2\pi", "2pi")),
    *((r"\text{blue}", "blue"), ("50\u00b0", "50"), ("\u00bd", "1/2"), ("\u00e9", "e")),
    *(("x*y*z", "z*y*x"), ("x+y", "y+x"), ("0.5x", "x/2"), ("x", "y"), ("(x", "x"), ("1/0", "2")),
    *(("[2.5][0]", "2.5"), ("oo", "0.5"), ("3!", "6"), ("2.5!", "1.5"), ("True", "1")),
    *(("2**0.5", "sqrt(2)"), ("1/3", "0.333333"), ("10^6", "1000000"), ("6*10^2", "600")),
)
HOSTILE_PAIRS = (
    *(("9**9**9", "1"), ("9**9**9", "blue"), ("9**9**9", "9**9**9"), ("9**9**9", "1.5")),
    *(("99999999!", "1.5"), ("99999999!", "7"), ("1e1000000000", "1.5"), ("2**100000000", "1.5")),
    *(("9**99999", "1.5"), ("7**7**7", "1.5"), ("x**x**x**9", "1.5"), ("(x+1)**1000", "1.5")),
    *(("(((x+1)**50+1)**50)", "1.5"), ("ff(3,99999999)", "1.5"), ("[1]*99999999", "1.5")),
    *(("1" * 5000, "1.5"), ("(" * 3000, "x"), ("word " * 3000, "blue"), ("{" * 9000, "1")),
    *(("1<<999999999999", "1.5"), ("(x+1000)!/x!", "x"), ("sqrt(999!+1)", "x")),
)
BOXES = (
    *("", "no box", r"\boxed{42}", r"\boxed{ 42 }", r"\boxed{1} \boxed{2}", r"\boxed{\frac{1}{2}}"),
    *(r"\boxed{{42}}", r"\boxed{", r"\boxed{a{b}", r"\boxed{a}b}", r"\boxed{}", r"\boxed{a\}b}"),
    *(r"\boxed{1} \boxed{2", r"\boxed {1}", r"\BOXED{1}", "\\boxed{a\nb}", r"\boxed{\boxed{3}}"),
    *(r"\fbox{1}", r"\boxed{\text{caf\'e}}", "\\boxed{\u00bd \u2212 x}", r"a\boxed{\{1\}}z"),
)
WORDS = "the bar chart of sales in north and south over ten years The A".split()
_SIXTEEN = "the red bar is taller than the blue bar in each of the last four years"
TEXT_PAIRS = (
    *(("", ""), ("", "a b c d"), ("a b c d", ""), ("one", "one"), ("a b c", "a b c")),
    *(("a b c d", "a b c d"), ("a b c d", "A b c d"), ("a b", "c d"), ("a a a a", "a")),
    *(
        (_SIXTEEN, _SIXTEEN.replace("red", "green")),
        ("a b c d e", "a b c d"),
        ("a\tb\nc  d", "a b c d"),
    ),
    *(
        ("a b c d", "a b c d e f g h"),
        ("x y z w a b", "a b x y z w"),
        ("\u00e9 b c d", "\u00e9 b c d"),
    ),
)


def by_hand() -> Iterator[Row]:
    yield from VOTES
    yield from PROPOSER
    yield from CODER
    yield from SOLVER
    yield from BATCHES
    yield from FILTERS
    yield from TEXTS


def _vote(majority: str | None, valid: int, counts: dict[str, int]) -> dict[str, Any]:
    return {"majority": majority, "valid": valid, "counts": counts}


_NO = ["no change", "no bars", "no", "none", "5"]
_LONG = "a" + " b" * 80
VOTES: tuple[Row, ...] = (
    ("service_vote", [["5", "5", "5", "7", "7"]], _vote("5", 5, {"5": 3, "7": 2}), "facts 2.4"),
    (
        "service_vote",
        [["2", "2", "3", "3", "1"]],
        _vote("2", 5, {"2": 2, "3": 2, "1": 1}),
        "facts 2.4",
    ),
    ("service_vote", [["3", "1", "2"]], _vote("3", 3, {"3": 1, "1": 1, "2": 1}), "facts 2.4"),
    ("service_vote", [["5", "5", "7", "None", "None"]], _vote("5", 3, {"5": 2, "7": 1}), "facts 2.4"),
    ("service_vote", [["None", "8", "", "-", "N/A"]], _vote("8", 1, {"8": 1}), "facts 2.4"),
    ("service_vote", [_NO], _vote("no change", 4, {"no change": 2, "no": 1, "5": 1}), "facts 2.4"),
    ("service_vote", [["na", "NA", "n/a"]], _vote(None, 0, {}), "facts M11"),
    ("service_vote", [["NULL", "Unknown", "none", "-"]], _vote(None, 0, {}), "facts 2.4"),
    ("service_vote", [["piano keys", "casino yes"]], _vote("piano keys", 2, {"piano keys": 2}), "facts M11"),
    ("service_vote", [["The  Blue Bar.", "the blue bar."]], _vote("The  Blue Bar.", 2, {"The  Blue Bar.": 2}), "hand"),
    ("service_vote", [[_LONG + "c", _LONG + "d"]], _vote(_LONG + "c", 2, {_LONG + "c": 2}), "hand"),
    ("service_vote", [[]], _vote(None, 0, {}), "hand"),
    ("service_vote", [["7"]], _vote("7", 1, {"7": 1}), "hand"),
    ("service_vote", [["1/2", "0.5", "2"]], _vote("1/2", 3, {"1/2": 2, "2": 1}), "hand"),
    ("service_vote", [["6/8", "3/4", "0.75"]], _vote("6/8", 3, {"6/8": 2, "3/4": 1}), "hand"),
    ("service_vote", [["3/4", "6/8", "0.75"]], _vote("3/4", 3, {"3/4": 2, "6/8": 1}), "hand"),
    ("service_vote", [["\u00e9", "E\u0301", "\u00c9"]], _vote("\u00e9", 3, {"\u00e9": 2, "E\u0301": 1}), "hand"),
    ("label_vote", [["na", "NA", "n/a"]], _vote("na", 3, {"na": 2, "n/a": 1}), "facts M11"),
    ("label_vote", [["None", "None", "5"]], _vote("None", 3, {"None": 2, "5": 1}), "facts 2.4"),
    ("label_vote", [["None"] * 10], _vote("None", 10, {"None": 10}), "facts 2.4"),
    ("label_vote", [["", "", "5"]], _vote("5", 1, {"5": 1}), "facts 2.4"),
    ("label_vote", [["", ""]], _vote(None, 0, {}), "facts 2.4"),
    ("label_vote", [["unknown", "-", "x"]], _vote("unknown", 3, {"unknown": 1, "-": 1, "x": 1}), "facts M11"),
    ("label_vote", [["piano keys", "casino yes"]], _vote("piano keys", 2, {"piano keys": 2}), "facts M11"),
    ("label_vote", [_NO], _vote("no change", 5, {"no change": 2, "no": 1, "none": 1, "5": 1}), "hand"),
    ("label_vote", [[_LONG + "c", _LONG + "d"]], _vote(_LONG + "c", 2, {_LONG + "c": 1, _LONG + "d": 1}), "hand"),
    ("solvability", [["5", "5", "5", "5", "5"], "5"], 1.0, "hand"),
    ("solvability", [["5", "5", "6", "None", "7"], "5"], 0.4, "facts 3"),
    ("solvability", [["None", "None", "7", "7", "7"], "None"], 0.4, "facts M10"),
    ("solvability", [["5", "6"], ""], 0.0, "facts M10"),
    ("solvability", [["", ""], ""], 0.0, "facts M10"),
    ("solvability", [[], "5"], -1.0, "facts 3.1"),
    ("solvability", [[], ""], -1.0, "facts 3.1"),
    ("solvability", [["1/2", "0.50", "50%"], "0.5"], 2 / 3, "hand"),
    ("solvability", [["second"], "minute"], 1.0, "hand"),
)  # fmt: skip

# (s, c) of each drawing, None where it did not render; -1 is a service's error.
_P = "facts 3.1"
PROPOSER: tuple[Row, ...] = (
    ("proposer", [[[1, 0.6]] * 4], 0.90, f"{_P} P1"),
    ("proposer", [[[0.4, 0.6]] * 4], 0.80, f"{_P} P2"),
    ("proposer", [[[1, 0.4], None, [1, 0.4], None]], 0.45, f"{_P} P3"),
    ("proposer", [[[1, 1]] * 4], 0.20, f"{_P} P4"),
    ("proposer", [[[1, 0.6], [1, 1], [1, 1], [1, 1]]], 0.30, f"{_P} P5"),
    ("proposer", [[[1, 0.6], [1, 0.8], [1, 1], [1, 1]]], 0.65, f"{_P} P6"),
    ("proposer", [[None] * 4], 0.0, f"{_P} P7"),
    ("proposer", [[]], 0.0, f"{_P} P8"),
    ("proposer", [None], -1.0, f"{_P} P9"),
    ("proposer", [[[1, -1]] * 4], -0.80, f"{_P} P10"),
    ("proposer", [[[-1, 0.6]] * 4], -0.60, f"{_P} P11"),
    ("proposer", [[[0, 0]] * 4], -0.30, f"{_P} P12"),
    ("proposer", [[[1, 0.8], [1, 0.8], [1, 0.8], [1, 1]]], 0.35, "facts M1"),
    ("proposer", [[[1, 0.2], [1, 0.2], [1, 0.2], [1, 0]]], 0.65, "facts M1"),
    ("proposer", [[[-1, -1]] * 4], -2.3, "facts M12"),
    ("proposer", [[[1, 0.5]]], 1.0, "facts 3.1 range"),
    ("proposer", [[[0.3, 0.6], None]], 0.35, "hand"),
)

_SVG = "<svg viewBox='0 0 9 9'><rect/></svg>"
_FENCED = f"```svg\n{_SVG}\n```"
_K = "facts 3.2"
# (reply, None or [s, c] of its picture)
CODER: tuple[Row, ...] = (
    ("coder", [_FENCED, [1, 0.6]], 2.4, f"{_K} K1"),
    ("coder", [_FENCED, [0.6, 1]], 1.6, f"{_K} K2"),
    ("coder", [_FENCED, [0, 0.2]], 1.2, f"{_K} K3"),
    ("coder", ["I cannot draw that.", None], -0.5, f"{_K} K4"),
    ("coder", ["```svg\n<svg><rect></svg>\n```", None], -0.1, f"{_K} K5"),
    ("coder", ["```svg\nprint('hello')\n```", None], -0.5, f"{_K} K6"),
    ("coder", [_SVG, [1, 0.4]], 2.4, f"{_K} K7"),
    ("coder", [f"```svg\n{_SVG}", [1, 0.5]], 2.5, f"{_K} K8"),
    ("coder", ["```svg\n<svg><rect/>", None], -0.5, f"{_K} K9"),
    ("coder", [_FENCED, [1, -1]], 1.0, f"{_K} K10"),
    ("coder", [_FENCED, [1, 0.5]], 2.5, f"{_K} K11"),
    ("coder", ["<svg><rect/></svg>", None], -0.1, f"{_K} K12"),
    ("coder", [_FENCED, [-1, -1]], -0.5 + 0.5 - 1.0 + 0.0, "hand"),
    ("coder", ["", None], -0.5, "hand"),
)

_ONE = r"<think>two and two</think>\boxed{%s}"
_S = "facts 3.3"
# (reply, label)
SOLVER: tuple[Row, ...] = (
    ("solver", [_ONE % 42, "42"], 1.0, _S),
    ("solver", ["<think>a\nb</think>\n\\boxed{42}\n", "42"], 1.0, _S),
    ("solver", ["  " + _ONE % 42, "42"], 1.0, _S),
    ("solver", ["Sure. " + _ONE % 42, "42"], 0.9, _S),
    ("solver", [r"<think>a</think> So it is \boxed{42}", "42"], 0.9, _S),
    ("solver", [_ONE % 42 + ".", "42"], 0.9, _S),
    ("solver", [r"\boxed{42}", "42"], 0.9, _S),
    ("solver", [_ONE % 41, "42"], 0.1, _S),
    ("solver", ["<think>a</think> 42", "42"], 0.0, _S),
    ("solver", ["<think>a</think> 42", "None"], 0.9, _S),
    ("solver", [r"<think>a</think>\boxed{41} or \boxed{42}", "42"], 1.0, _S),
    ("solver", [_ONE % r"\frac{1}{2}", "0.5"], 1.0, _S),
    ("solver", [_ONE % "25%", "25"], 1.0, _S),
    ("solver", [_ONE % "0.25", "25%"], 0.1, _S),
    ("solver", [_ONE % "6/8", "3/4"], 0.1, _S),
    ("solver", [_ONE % "5 cm", "5"], 1.0, _S),
    ("solver", [_ONE % "{42}", "42"], 1.0, _S),
    ("solver", [r"two</think>\boxed{42}", "42"], 0.9, _S),
    ("solver", [r"<think>a</think><think>b</think>\boxed{42}", "42"], 1.0, _S),
    ("solver", [r"<think>a</think>prose</think>\boxed{42}", "42"], 1.0, "facts M7"),
    ("solver", [r"<think>a</think>b<think>c</think>\boxed{42}", "42"], 1.0, "facts M7"),
    ("solver", [r"<think>a</think>\boxed{42} because {x}", "42"], 1.0, "facts M7"),
    ("solver", ["< think >a< / think > \\boxed{1 / 2}", "0.5"], 1.0, "hand: after the squeeze"),
    ("solver", ["", "42"], 0.0, "hand"),
)

_B = "facts 3.1 batches"
# (number of proposals, {field: how many hold the same text}, content types by number)
BATCHES: tuple[Row, ...] = (
    ("batch", [8, {"caption": 2}, [8]], [0.675] * 2 + [0.9] * 6, _B),
    ("batch", [8, {"caption": 3}, [8]], [0.45] * 3 + [0.9] * 5, _B),
    ("batch", [8, {"caption": 4}, [8]], [0.40] * 4 + [0.9] * 4, _B),
    ("batch", [8, {"hard_question": 2}, [8]], [0.725] * 2 + [0.9] * 6, _B),
    ("batch", [8, {"easy_question": 2}, [8]], [0.80] * 2 + [0.9] * 6, _B),
    (
        "batch",
        [8, {"caption": 2, "easy_question": 2, "hard_question": 2}, [8]],
        [0.40] * 2 + [0.9] * 6,
        _B,
    ),
    ("batch", [24, {"caption": 2}, [24]], [0.675] * 2 + [0.9] * 22, _B),
    ("batch", [8, {}, [6, 2]], [0.825] * 6 + [0.9] * 2, _B),
    ("batch", [8, {}, [7, 1]], [0.7875] * 7 + [0.9], _B),
    ("batch", [8, {}, [4, 4]], [0.9] * 8, _B),
    ("batch", [8, {}, [8]], [0.9] * 8, _B),
    ("batch", [1, {}, [1]], [0.9], "hand"),
    ("batch", [0, {}, []], [], "hand"),
    ("batch", [2, {"caption": 2}, [1, 1]], [0.675] * 2, "hand"),
    ("type_penalties", [["a", "a", "a", "b"]], [-0.075] * 3 + [0.0], "hand"),
    ("type_penalties", [["a"]], [0.0], "hand"),
    ("type_penalties", [[]], [], "hand"),
    ("image_penalties", [[[1, 0], [1, 0], [0, 1]]], [-0.15, -0.15, 0.0], "hand: our reading"),
    ("image_penalties", [[[1, 0], [1, 0], [1, 0]]], [-0.15] * 3, "hand: our reading"),
    ("image_penalties", [[[1, 0], [0.8, 0.6]]], [-0.15] * 2, "hand: our reading"),
    ("image_penalties", [[[1, 0], [0.6, 0.8]]], [0.0, 0.0], "hand: our reading"),
    ("image_penalties", [[[1, 0]]], [0.0], "hand: our reading"),
)

# Easy and hard consistency as [majority, votes, ballots].
FILTERS: tuple[Row, ...] = (
    *(("coder_filter", [k, 4], why, "facts 3.4") for k, why in enumerate(
        ["never_renders", None, None, None, "always_renders"])),
    ("coder_filter", [0, 0], "never_renders", "hand"),
    ("solver_filter", [["a", 5, 10], ["5", 3, 10]], None, "facts 3.4"),
    ("solver_filter", [["a", 5, 10], ["5", 8, 10]], "too_easy", "facts 3.4"),
    ("solver_filter", [["a", 5, 10], ["5", 2, 8]], None, "facts 3.4"),
    ("solver_filter", [["a", 5, 10], ["5", 2, 10]], "too_hard", "facts 3.4"),
    ("solver_filter", [["a", 5, 10], ["5", 6, 8]], None, "facts 3.4"),
    ("solver_filter", [["a", 4, 10], ["5", 5, 10]], "unreadable", "facts 1.4"),
    ("solver_filter", [["a", 10, 10], ["None", 5, 10]], "no_votes", "facts 1.4"),
    ("solver_filter", [["a", 10, 10], ["", 5, 10]], "no_votes", "facts 1.4"),
    ("solver_filter", [["a", 10, 10], [None, 0, 0]], "no_votes", "hand"),
    ("solver_filter", [["None", 10, 10], ["5", 5, 10]], None, "facts 2.4"),
    *(("solver_filter", [["a", 10, 10], [label, 5, 10]], None, "facts M9")
      for label in ("none", " None", "N/A", " ")),
)  # fmt: skip

_TYPE = "content_type"


def _proposal(kind: str = "map", **fields: str) -> dict[str, str]:
    """What a case says of a proposal; a field that is not given is its own letter."""
    letters = {"caption": "c", "easy_question": "q", "easy_answer": "a"}
    letters |= {"hard_question": "Q", "hard_answer": "A"}
    return {_TYPE: kind} | letters | fields


def tagged(**fields: str) -> str:
    """A reply with the fields of `_proposal`, tagged."""
    return "".join(f"<{name}>{text}</{name}>" for name, text in _proposal(**fields).items())


_ALL = tagged()
_HEAD = "<caption>c</caption><easy_question>q</easy_question><easy_answer>a</easy_answer>"
_GAP = {"hard_question": "", "hard_answer": ""}
_TRAIN, _INFER = "parse_proposal", "parse_proposal_at_inference"
TEXTS: tuple[Row, ...] = (
    (_TRAIN, [_ALL], _proposal(), "hand"),
    (_TRAIN, [f"Sure! {_ALL} Done."], _proposal(), "facts 2.2"),
    (_TRAIN, [_ALL.replace("<caption>", "<Caption>")], "caption", "facts 2.2"),
    (_TRAIN, [tagged(hard_answer="")], _proposal(hard_answer=""), "facts 2.2"),
    (_TRAIN, [tagged(caption="", easy_answer="")], _proposal(caption="", easy_answer=""), "facts 2.2"),
    (_TRAIN, [_HEAD], "hard_question", "facts P9"),
    (_TRAIN, [tagged(caption="a < b, 3 km / h")], _proposal(caption="a<b, 3 km/h"), "facts 2.2"),
    (_TRAIN, [_ALL.replace("<caption>", "< caption >")], _proposal(), "facts M2"),
    (_TRAIN, [_ALL + tagged(caption="z")], _proposal(), "facts 2.2"),
    (_TRAIN, [_ALL.replace("</caption>", "")], "caption", "hand"),
    (_TRAIN, [tagged(kind="")], _proposal("other"), "facts 2.2"),
    (_TRAIN, [tagged(kind="Data Chart")], _proposal("data_chart"), "facts 2.2"),
    (_TRAIN, [tagged(kind="", caption="a pie chart")], _proposal("data_chart", caption="a pie chart"), "facts 2.2"),
    (_TRAIN, [tagged(caption=" \n x  y\n")], _proposal(caption="x  y"), "hand"),
    (_TRAIN, [""], "caption", "hand"),
    (_INFER, [_ALL], _proposal(), "hand"),
    (_INFER, [_HEAD], _proposal("other", **_GAP), "facts 2.2"),
    (_INFER, [_HEAD.upper()], _proposal("other", caption="C", easy_question="Q", easy_answer="A", **_GAP), "facts 2.2"),
    (_INFER, [_HEAD + "<hard_answer></hard_answer>"], _proposal("other", hard_question="", hard_answer="</hard_answer>"), "facts M2"),
    (_INFER, [_HEAD + "<hard_answer> \n</hard_answer>"], _proposal("other", **_GAP), "facts M2"),
    (_INFER, [tagged(caption="")], _proposal(caption="</caption>"), "facts M2: to the next opening tag"),
    (_INFER, [tagged(caption=" ")], "caption", "facts M2"),
    (_INFER, ["caption: c\nEasy_Question: q\neasy_answer : a"], _proposal("other", **_GAP), "facts 2.2"),
    (_INFER, ["<caption>c\nmore\n<easy_question>q<easy_answer>a"], _proposal("other", **_GAP), "facts M2"),
    (_INFER, [_HEAD.replace("<caption>", "< caption >")], "caption", "facts M2"),
    (_INFER, ["<caption>c</caption><easy_question>q</easy_question>"], "easy_answer", "facts 2.2"),
    ("squeeze", [" < a > b / c "], " <a>b/c ", "facts 2.2"),
    ("squeeze", ["1 <\n2  /3>  "], "1<2/3>", "hand"),
    ("squeeze", ["  a b  "], "  a b  ", "hand"),
    (_TYPE, ["Data Chart", ""], "data_chart", "facts 2.2"),
    (_TYPE, ["datachart", ""], "data_chart", "facts 2.2"),
    (_TYPE, ["MAP", "a bar chart"], "map", "facts 2.2"),
    (_TYPE, ["other", "a rectangle flow"], "geometry", "facts 2.2"),
    (_TYPE, [None, "a coordinate grid"], "geometry", "facts 2.2"),
    (_TYPE, ["poster", "a Flow Chart with a pie chart"], "diagram", "facts 2.2"),
    (_TYPE, [None, "a stable unit"], "table", "facts 2.2"),
    (_TYPE, [None, "a heatmap of a country"], "data_chart", "facts 2.2"),
    (_TYPE, [None, "a Gantt plan by region"], "timeline", "facts 2.2"),
    (_TYPE, [None, "a roadmap"], "map", "hand"),
    (_TYPE, ["other", "a cat"], "other", "facts 2.2"),
    (_TYPE, [None, ""], "other", "hand"),
    ("extract_svg", [_FENCED], _SVG, "facts 2.3"),
    ("extract_svg", [f"text {_SVG} text"], _SVG, "facts 2.3"),
    ("extract_svg", [f"```SVG\n{_SVG}\n```"], _SVG, "facts 2.3"),
    ("extract_svg", [f"```svg\n{_SVG}"], _SVG, "facts 2.3"),
    ("extract_svg", [f"```svg\nbad\n```\n{_FENCED}"], "bad", "facts 2.3"),
    ("extract_svg", [f"```xml\n<a/>\n```\n{_SVG}"], _SVG, "facts 2.3"),
    ("extract_svg", [f"```xml\n<?xml?><SVG></SVG>\n```\n{_SVG}"], "<?xml?><SVG></SVG>", "facts 2.3"),
    ("extract_svg", [f"```xml\n<?xml?>{_SVG}\n```\n{_FENCED}"], _SVG, "facts 2.3"),
    ("extract_svg", ["<svg><rect/>"], "", "facts 2.3"),
    ("extract_svg", ["<svg><svg></svg></svg>"], "<svg><svg></svg>", "facts 2.3"),
    ("extract_svg", ["```svg\n```"], "", "hand"),
    ("extract_svg", [""], "", "hand"),
    *(("is_svg", [code], is_one, "facts 3.2") for code, is_one in (
        ("<svg>", True), ("<html>", True), ("x <svg", True), ("x <SVG", False), ("", False))),
    *(("is_well_formed", [text], is_one, "facts M7") for text, is_one in (
        (r"<think></think>\boxed{}", True), (r"<think>a</think>\boxed{1", False),
        (r"<think>a</think>\boxed 1}", False), (r"<think>a<think>\boxed{1}", False),
        (r"<think>a</think>\boxed{1}}", True), (r"<think>a</think> x \boxed{1}", False),
        ("<think>a</think>\n \\boxed{1} \n", True), (r"<THINK>a</THINK>\boxed{1}", False))),
    ("parse_answer", [r"\boxed{3 / 4}"], "3/4", "facts 3.3"),
    ("parse_answer", ["nothing"], "None", "facts 3.3"),
)  # fmt: skip
