"""Stylesheets: selectors that never end, rules by the thousand, brackets, escapes."""

from random import Random

from render_pool.corpus.attacks.book import (
    HEAVY,
    ODD,
    REFUSED,
    SEEN,
    Book,
    colour,
    document,
    filled,
    name,
    room,
    shape,
)

CSS = Book("css")
BOOKS = (CSS,)


def _styled(rng: Random, css: str, body: str = "") -> str:
    return document(rng, f"<style>{css}</style>{body}{shape(rng)}")


def _tree(rng: Random, tag: str, depth: int, width: int = 1) -> str:
    return f"<{tag}>" * depth + f"<{tag}/>" * width + f"</{tag}>" * depth


@CSS.recipe(*REFUSED)
def descendants(rng: Random) -> str:
    """n ancestors, k steps, and no match: n over k ways to fail."""
    steps = rng.randint(5, 20)
    step = rng.choice(("g ", "* ", ":not(a) ", "g:nth-child(n) "))
    css = f"{name(rng)} {step * steps}g{{fill:{colour(rng)}}}"
    return _styled(rng, css, _tree(rng, "g", rng.randint(50, 90)))


@CSS.recipe(*REFUSED)
def siblings(rng: Random) -> str:
    steps = "g~" * rng.randint(4, 12)
    css = f"{name(rng)}~{steps}g{{fill:{colour(rng)}}}"
    return _styled(rng, css, "<g/>" * rng.randint(60, 400))


@CSS.recipe(*REFUSED)
def descendants_and_siblings(rng: Random) -> str:
    steps = "".join(rng.choice(("g ", "g~", "g>g ", "g+g~")) for _ in range(rng.randint(8, 16)))
    row = "<g/>" * 30
    body = f"<g>{row}" * rng.randint(20, 40)
    return _styled(rng, f"{name(rng)} {steps}g{{fill:red}}", body + "</g>" * body.count("<g>"))


@CSS.recipe(*REFUSED)
def many_siblings(rng: Random) -> str:
    """Every element keeps a list of all before it."""
    test = rng.choice(("~g", ":nth-of-type(2n)", ":first-of-type", ":nth-last-of-type(3)"))
    css = f"{name(rng)}{test}{{fill:red}}" if test == "~g" else f"g{test}{{fill:red}}"
    return _styled(rng, css, "<g/>" * rng.randint(3000, 9000))


@CSS.recipe(*REFUSED)
def has(rng: Random) -> str:
    relation = rng.choice(("", ">", "~", "+"))
    css = f"g:has({relation} {name(rng)}){{fill:red}}"
    return _styled(rng, css, _tree(rng, "g", 80, rng.randint(2000, 4000)))


@CSS.recipe(*REFUSED, "malformed")
def has_within_has(rng: Random) -> str:
    n = rng.randint(3, 9)
    css = ":has(" * n + name(rng) + ")" * n + "{fill:red}"
    return _styled(rng, css, _tree(rng, "g", rng.randint(50, 90)))


@CSS.recipe(*REFUSED, "malformed")
def nth_of_within_nth_of(rng: Random) -> str:
    """cssselect2 writes the inner selector twice into the outer one."""
    n = rng.randint(12, 40)
    pseudo = rng.choice((":nth-child", ":nth-last-child", ":nth-of-type"))
    css = f"{pseudo}(1 of " * n + name(rng) + ")" * n + "{fill:red}"
    return _styled(rng, css, "<g/>" * 5)


@CSS.recipe(*REFUSED)
def nth_last_of(rng: Random) -> str:
    css = f":nth-last-child({rng.randint(1, 9)} of g){{fill:red}}"
    return _styled(rng, css, "<g/>" * rng.randint(1500, 3000))


@CSS.recipe(*ODD)
def logical_nests(rng: Random) -> str:
    n = rng.randint(5, 400)
    pseudo = rng.choice((":is(", ":not(", ":where("))
    return _styled(rng, pseudo * n + name(rng) + ")" * n + "{fill:red}", "<g/>" * 9)


@CSS.recipe(*HEAVY)
def logical_lists(rng: Random) -> str:
    n = rng.randint(300, 2000)
    test = ",".join(f"[a{i}]" for i in range(n))
    return _styled(rng, f":{rng.choice(('is', 'not'))}({test}){{fill:red}}", "<g/>" * 1000)


@CSS.recipe(*HEAVY)
def many_rules(rng: Random) -> str:
    rule = rng.choice(("g{{a{0}:b}}", ".c{0}{{fill:red}}", "#i{0}{{x:y}}", "g{0}{{}}"))
    start = rng.getrandbits(16)
    count = room(rng, 40_000) // 16
    return _styled(rng, "".join(rule.format(start + i) for i in range(count)))


@CSS.recipe(*REFUSED)
def rules_times_nodes(rng: Random) -> str:
    start = rng.getrandbits(16)
    css = "".join(f"g[a{start + i}]{{b:c}}" for i in range(rng.randint(1000, 1800)))
    return _styled(rng, css, "<g/>" * rng.randint(3000, 6000))


@CSS.recipe(*REFUSED)
def declarations_times_nodes(rng: Random) -> str:
    css = "*{" + "".join(f"{name(rng)}:b;" for _ in range(rng.randint(1000, 3000))) + "}"
    return _styled(rng, css, "<g/>" * rng.randint(2000, 4000))


@CSS.recipe(*HEAVY)
def many_selectors(rng: Random) -> str:
    start = rng.getrandbits(16)
    names = ",".join(f"s{start + i}" for i in range(room(rng, 40_000) // 8))
    return _styled(rng, names + "{fill:red}")


@CSS.recipe(*REFUSED, "malformed")
def one_long_selector(rng: Random) -> str:
    step = rng.choice(("a ", "a>", "a~", "a+", ".a", ":not(a)", "[a]"))
    return _styled(rng, filled(step, room(rng, 4000)) + name(rng) + "{fill:red}")


@CSS.recipe(*HEAVY)
def long_attribute_tests(rng: Random) -> str:
    css = f'g[data-x*="{name(rng)}"],g[data-x$="y"],g[data-x~="z"]{{fill:red}}'
    return _styled(rng, css, filled(f'<g data-x="{"x " * 900}"/>', room(rng, 40_000)))


@CSS.recipe(*ODD)
def brackets(rng: Random) -> str:
    piece = rng.choice("({[") if rng.random() < 0.7 else rng.choice(("a(", "a{b(", "@a{", "[]{"))
    return _styled(rng, filled(piece, room(rng, 2000)) + name(rng))


@CSS.recipe(*ODD)
def broken_tokens(rng: Random) -> str:
    piece = rng.choice(
        (
            "\\41 ",
            "\\110000 ",
            "'\n",
            "url(a b",
            "url('",
            "/*",
            "&lt;!--",
            "\\",
            "U+0-",
            "9e",
            "@;",
            ";",
        )
    )
    return _styled(rng, f"a{{b:{filled(piece, room(rng, 2000))}{name(rng)}}}")


@CSS.recipe(*ODD)
def bad_selectors(rng: Random) -> str:
    """cairosvg raises for the whole picture where it can't read one selector."""
    bad = rng.choice(
        (
            "::x",
            ":x",
            "a|b",
            "[a b]",
            "5",
            ":nth-child(q)",
            ":lang(5)",
            "a,,b",
            "*|*",
            "[*|a]",
            ":nth-child(1 of)",
        )
    )
    return _styled(rng, f"{bad}{{fill:{colour(rng)}}}")


@CSS.recipe(*ODD)
def huge_number_in_selector(rng: Random) -> str:
    return _styled(rng, f":nth-child({'9' * rng.randint(10, 20_000)}n+1){{fill:red}}", "<g/>" * 9)


@CSS.recipe(*ODD)
def injection(rng: Random) -> str:
    """Selectors become Python source; names must stay strings in it."""
    code = rng.choice(
        ("__import__('os').system('id')", "').x or 1 or ('", "\\27 + 1 + \\27", "{el}")
    )
    quoted = code.replace('"', "").replace("<", "")
    return _styled(rng, f'[{name(rng)}="{quoted}"],.a\\27 \\29 b,#\\5c n{{fill:{colour(rng)}}}')


@CSS.recipe(*SEEN)
def nested_imports(rng: Random) -> str:
    css = "".join(f"@import url(http://127.0.0.1:{{port}}/{name(rng)});" for _ in range(50))
    return _styled(rng, css)


@CSS.recipe(*HEAVY)
def many_sheets(rng: Random) -> str:
    sheets = "".join(
        f"<style>.{name(rng)}{{fill:red}}</style>" for _ in range(rng.randint(500, 1500))
    )
    return document(rng, sheets + shape(rng))


@CSS.recipe(*HEAVY, "malformed")
def geometry_by_stylesheet(rng: Random) -> str:
    """Any attribute can be a declaration, the size of the root included."""
    huge = rng.choice(("width:99999px;height:99999px", "transform:scale(1e300)", "font-size:1e9px"))
    return _styled(rng, f"svg{{{huge}}}rect{{x:{rng.randint(1, 9)};rx:nan}}")
