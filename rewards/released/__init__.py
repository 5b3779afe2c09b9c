"""The rules of the released MM-Zero, quirks included: what the preset `mm_zero_code` plays by.

`equality` says when two answers are the same, `votes` what a set of answers votes for,
`diversity` what repetition costs in a batch. Our own rules, which mend the quirks, are the
modules of the same subjects one package up; rewards proper are shared, with other weights.
Source: github.com/zli12321/MM-Zero, the code of the commit 70592bc (2026-03-13).
"""
