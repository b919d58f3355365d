"""Arithmetic and number tasks of the curriculum."""

from __future__ import annotations

import json
from random import Random

from .example import Item, user

__all__ = ("add", "compare", "divide", "multiply", "sort", "subtract")

_ADD = (
    "What is {a} + {b}?", "Compute {a} + {b}.", "{a} + {b} =", "{a} + {b}", "{a}+{b}",
    "Add {a} and {b}.", "What is the sum of {a} and {b}?", "Please calculate {a} + {b}.",
    "How much is {a} plus {b}?", "What does {a} + {b} equal?", "what's {a} + {b}",
    "Calculate {a} plus {b}.", "{a} plus {b}?", "What is {a} plus {b}?",
    "I have {a} apples and buy {b} more. How many apples do I have now?",
    "A shelf holds {a} books and {b} more are added. How many books is that?",
)  # fmt: skip
_SUBTRACT = (
    "What is {a} - {b}?", "Compute {a} - {b}.", "{a} - {b} =", "{a} - {b}", "{a}-{b}",
    "Subtract {b} from {a}.", "What is the difference {a} - {b}?", "Please calculate {a} - {b}.",
    "How much is {a} minus {b}?", "What does {a} - {b} equal?", "what's {a} - {b}",
    "Calculate {a} minus {b}.", "{a} minus {b}?", "What is {a} minus {b}?",
)  # fmt: skip
_SUBTRACT_STORY = (
    "I have {a} coins and spend {b}. How many coins are left?",
    "Of {a} seats {b} are taken. How many seats are free?",
)
_MULTIPLY = (
    "What is {a} * {b}?", "Compute {a} * {b}.", "{a} * {b} =", "{a} * {b}", "{a}*{b}",
    "Multiply {a} by {b}.", "What is the product of {a} and {b}?", "Please calculate {a} * {b}.",
    "How much is {a} times {b}?", "What does {a} * {b} equal?", "what's {a} x {b}",
    "Calculate {a} times {b}.", "{a} times {b}?", "What is {a} x {b}?",
    "There are {a} boxes with {b} pens each. How many pens are there?",
)  # fmt: skip
_DIVIDE = (
    "What is {a} // {b}?", "Compute {a} // {b}.", "{a} // {b}", "Divide {a} by {b}.",
    "What is {a} divided by {b}?", "How often does {b} go into {a}?", "What is {a} / {b}?",
    "Integer division: {a} by {b}", "Please divide {a} by {b}, with remainder.",
)  # fmt: skip
_LARGER = (
    "Which is larger, {a} or {b}?", "Which number is bigger: {a} or {b}?",
    "What is the larger of {a} and {b}?", "Is {a} or {b} the greater number?",
    "Compare {a} and {b}: which one is larger?", "max({a}, {b})?", "Which is more, {a} or {b}?",
)  # fmt: skip
_SMALLER = (
    "Which is smaller, {a} or {b}?", "Which number is lower: {a} or {b}?",
    "What is the smaller of {a} and {b}?", "Is {a} or {b} the lesser number?",
    "Compare {a} and {b}: which one is smaller?", "min({a}, {b})?", "Which is less, {a} or {b}?",
)  # fmt: skip
_ASCENDING = (
    "Sort these numbers in ascending order: {n}", "Sort {n} from smallest to largest.",
    "Put {n} in ascending order.", "Order these numbers: {n}", "Sort {n}", "Sort {n}.",
    "Sort the numbers {n}.",
    "Please sort {n} in increasing order.", "Arrange {n} from low to high.",
)  # fmt: skip
_DESCENDING = (
    "Sort these numbers in descending order: {n}", "Sort {n} from largest to smallest.",
    "Put {n} in descending order.", "Arrange {n} from high to low.",
    "Please sort {n} in decreasing order.",
)  # fmt: skip
_JSON_SORT = (
    "Sort {n} and answer with a JSON list.", "Return {n} sorted, as a JSON array.",
    "Give me {n} in ascending order as JSON.", "Answer in JSON only: sort {n}",
)  # fmt: skip


def _number(rng: Random, most: int = 3) -> int:
    """Draw a number whose length in digits is uniform."""
    digits = rng.randint(1, most)
    return rng.randint(0 if digits == 1 else 10 ** (digits - 1), 10**digits - 1)


def add(rng: Random) -> Item:
    """Make an addition."""
    a, b = _number(rng), _number(rng)
    # Sums of two digits are the facts everything else rests on: never held out.
    key = "" if max(a, b) < 10 else f"{min(a, b)}+{max(a, b)}"
    return Item(key, user(rng.choice(_ADD).format(a=a, b=b)), f"{a} + {b} = {a + b}.")


def subtract(rng: Random) -> Item:
    """Make a subtraction; one in six has a negative result."""
    a, b = sorted((_number(rng), _number(rng)), reverse=True)
    if rng.random() < 1 / 3:
        # Long ones, where borrowing goes on from digit to digit, need the most practice.
        a, b = sorted((rng.randint(100, 999), rng.randint(10, 999)), reverse=True)
    key = "" if a < 10 else f"{a}-{b}"
    wordings: tuple[str, ...] = _SUBTRACT + _SUBTRACT_STORY
    if rng.random() < 1 / 6:
        a, b, wordings = b, a, _SUBTRACT
    return Item(key, user(rng.choice(wordings).format(a=a, b=b)), f"{a} - {b} = {a - b}.")


def _product_steps(a: int, b: int) -> str:
    """Write a product out as schools do, so that each step is small."""
    if a < 10 or b < 10:
        return f"{a} * {b} = {a * b}."
    parts = [int(digit) * 10**place for place, digit in enumerate(reversed(str(b)))]
    parts = [part for part in reversed(parts) if part]
    if len(parts) == 1:
        return f"{a} * {b} = {a * b}."
    steps = [" + ".join(f"{a} * {part}" for part in parts)]
    values = [a * part for part in parts]
    while True:
        steps.append(" + ".join(map(str, values)))
        if len(values) == 1:
            return f"{a} * {b} = " + " = ".join(steps) + "."
        values = [values[0] + values[1], *values[2:]]


def multiply(rng: Random) -> Item:
    """Make a multiplication, worked out when both factors have several digits."""
    a, b = _number(rng), _number(rng)
    key = "" if max(a, b) < 10 else f"{min(a, b)}*{max(a, b)}"
    return Item(key, user(rng.choice(_MULTIPLY).format(a=a, b=b)), _product_steps(a, b))


def divide(rng: Random) -> Item:
    """Make an integer division by at most 12."""
    # Large divisors are the hard ones: they come more often.
    a, b = _number(rng), max(rng.randint(1, 12), rng.randint(1, 12))
    key = "" if a < 10 else f"{a}//{b}"
    quotient, rest = divmod(a, b)
    answer = f"{a} // {b} = {quotient}, remainder {rest}."
    return Item(key, user(rng.choice(_DIVIDE).format(a=a, b=b)), answer)


def compare(rng: Random) -> Item:
    """Ask for the larger or the smaller of two numbers."""
    a = _number(rng, 4)
    b = _number(rng, 4) if rng.random() < 0.5 else abs(a + rng.choice((-1, 1)) * rng.randint(1, 90))
    if a == b:
        b += 1
    low, high = min(a, b), max(a, b)
    if rng.random() < 0.5:
        text, answer = rng.choice(_LARGER), f"{high} is larger than {low}."
    else:
        text, answer = rng.choice(_SMALLER), f"{low} is smaller than {high}."
    return Item(f"{low}<{high}", user(text.format(a=a, b=b)), answer)


def sort(rng: Random) -> Item:
    """Ask for three to seven numbers in order, sometimes as JSON."""
    numbers = [_number(rng) for _ in range(rng.randint(3, 7))]
    shown = ", ".join(map(str, numbers))
    key = ",".join(map(str, sorted(numbers)))
    kind = rng.random()
    if kind < 0.3:
        messages = user(rng.choice(_JSON_SORT).format(n=f"[{shown}]"))
        return Item(key, messages, json.dumps(sorted(numbers)), wants_json=True)
    if rng.random() < 0.2:
        shown = " ".join(map(str, numbers))
    if kind < 0.6:
        ordered, text = sorted(numbers, reverse=True), rng.choice(_DESCENDING)
    else:
        ordered, text = sorted(numbers), rng.choice(_ASCENDING)
    return Item(key, user(text.format(n=shown)), ", ".join(map(str, ordered)))
