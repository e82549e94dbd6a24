"""Values that no setting, key or field expects: as JSON values, as YAML and as texts."""

from typing import Any

TEXTS = (
    "", " ", "\0", "\n", "\r\n", "\t", "\x1b[31mred", "\ufeff", "\ud800", "\udfff\ud800", "é",
    "\U0001f642", "\u202eabc", "null", "true", "3", "3e-4", "012", "on", "no", "~", "nan", "inf",
    "0x10", "1_000", "1:30", "${HOME}", "$(id)", "`id`", "{{7*7}}", "%s%n", "../../etc/passwd",
    "/dev/zero", "/proc/self/mem", "/", ".", "-", "--", "'", '"', "a,b", "[1", "{a", "!!python/x",
    "&a", "*a", "@x", "__import__('os').system('id')", "x" * 300, "x" * 70_000, "é" * 20_000,
)  # fmt: skip
NUMBERS = (
    0, 1, -1, 2, 3, 7, 9_999, 10_000, 2**31, 2**31 - 1, 2**32, 2**63 - 1, 2**63, 2**64, -(2**63),
    10**17, 10**18, 10**40, 0.0, -0.0, 0.5, 1.5, -0.5, 1e-300, 5e-324, 1e17, 1e300, float("inf"),
    float("-inf"), float("nan"),
)  # fmt: skip
JSON_VALUES: tuple[Any, ...] = (
    None, True, False, *NUMBERS, *TEXTS[:-1],
    [], [[]], [None], [0], [-1], [1.5], ["a"], [8, 8], [8, None], [[8]], [True], [{}], [10**18],
    [2**64], [1] * 300, {}, {"a": 1}, {"": 0}, {"a": {"b": {"c": {}}}}, {"\ud800": 1},
    {"stories": 1}, {"files:x": 0}, {"x" * 5_000: 1}, ["x" * 5_000],
)  # fmt: skip
