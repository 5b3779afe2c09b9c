"""Content types: what is declared, else what the caption's words say."""

import pytest

from roles.mm_zero.content import CONTENT_TYPES, KEYWORDS, content_type


@pytest.mark.parametrize(
    ("tag", "caption", "kind"),
    [
        ("Data Chart", "a map", "data_chart"),
        ("datachart", "", "data_chart"),
        ("table", "a bar chart", "table"),
        ("other", "a flow chart of tea", "diagram"),
        ("cartoon", "two stacked histograms", "data_chart"),
        ("", "Triangles in a row", "geometry"),
        ("other", "rectangle flow", "geometry"),
        ("other", "a country and its region", "map"),
        ("other", "a heatmap", "data_chart"),
        ("other", "quadrangles", "other"),
        ("other", "a bitmap", "other"),
        ("other", "", "other"),
    ],
)
def test_content_type(tag: str, caption: str, kind: str) -> None:
    assert content_type(tag, caption) == kind


def test_every_type_but_other_has_keywords() -> None:
    assert {*KEYWORDS, "other"} == set(CONTENT_TYPES)
