"""String tasks and extraction of named fields."""

from __future__ import annotations

import json
from collections.abc import Callable
from random import Random

from .example import Item, user
from .words import CITIES, COMPANIES, FIRST, ITEMS, JOBS, LAST, SYLLABLES, TITLES, WEATHER, WORDS

__all__ = ("Facts", "change_case", "count_letter", "extract", "reverse")

_UPPER = (
    'Convert "{w}" to upper case.', "Write {w} in capital letters.", 'Uppercase the word "{w}".',
    'What is "{w}" in upper case?', "Make this upper case: {w}", "Please uppercase '{w}'.",
    'Turn "{w}" into capitals.', "'{w}'.upper()",
)  # fmt: skip
_LOWER = (
    'Convert "{w}" to lower case.', "Write {w} in small letters.", 'Lowercase the word "{w}".',
    'What is "{w}" in lower case?', "Make this lower case: {w}", "Please lowercase '{w}'.",
    "'{w}'.lower()",
)  # fmt: skip
_REVERSE = (
    'Reverse the string "{w}".', "Write {w} backwards.", 'What is "{w}" reversed?',
    "Spell {w} in reverse.", 'Please reverse "{w}".', "Reverse this word: {w}",
    "'{w}'[::-1]", 'Reverse the word "{w}".',
)  # fmt: skip
_COUNT = (
    'How many times does the letter "{c}" occur in "{w}"?', 'How many {c}\'s are in "{w}"?',
    'Count the letter "{c}" in "{w}".', "How often does {c} appear in the word {w}?",
    "'{w}'.count('{c}')", 'Count how many times "{c}" appears in "{w}".',
    'How many "{c}" are there in {w}?',
)  # fmt: skip
_EXTRACT = (
    "Extract {f} as JSON: {s}", "{s} Extract {f} as JSON.",
    "Return {f} from this text as JSON: {s}",
    "Give me {f} as a JSON object. Text: {s}", 'From "{s}" extract {f} as JSON.',
    "Read the sentence and answer with JSON holding {f}: {s}", "{s}\nJSON with {f}:",
    "Answer in JSON only. Fields: {f}. Text: {s}", "Parse into JSON ({f}): {s}",
)  # fmt: skip
_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


def _word(rng: Random) -> str:
    """Draw a common word, one with an ending, a made-up one or random letters."""
    kind = rng.random()
    if kind < 0.3:
        return rng.choice(WORDS)
    if kind < 0.4:
        # A word is one token or two: with an ending, held-out words show their letters too.
        return rng.choice(WORDS) + rng.choice(SYLLABLES)
    if kind < 0.8:
        return "".join(rng.choice(SYLLABLES) for _ in range(rng.randint(2, 4)))[:10]
    return "".join(rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(rng.randint(3, 7)))


def change_case(rng: Random) -> Item:
    """Ask for a word or two in upper or lower case."""
    text = " ".join(_word(rng) for _ in range(rng.choice((1, 1, 1, 2))))
    if rng.random() < 0.7:
        return Item(text, user(rng.choice(_UPPER).format(w=text)), text.upper())
    shown = text.upper() if rng.random() < 0.7 else text.title()
    return Item(text, user(rng.choice(_LOWER).format(w=shown)), text)


def reverse(rng: Random) -> Item:
    """Ask for a word spelled backwards, by way of its letters."""
    word = _word(rng)
    back = word[::-1]
    answer = f"{'-'.join(word)} reversed is {'-'.join(back)}: {back}"
    return Item(word, user(rng.choice(_REVERSE).format(w=word)), answer)


def count_letter(rng: Random) -> Item:
    """Ask how often a letter occurs in a word, by way of its letters."""
    word = _word(rng)
    alphabet = word if rng.random() < 0.8 else "abcdefghijklmnopqrstuvwxyz"
    letter = rng.choice(alphabet)
    times = word.count(letter)
    plural = "time" if times == 1 else "times"
    answer = f'"{word}" is {"-".join(word)}, so "{letter}" occurs {times} {plural}.'
    return Item(word, user(rng.choice(_COUNT).format(w=word, c=letter)), answer)


Facts = dict[str, str | int | float]


def _person(rng: Random) -> tuple[str, Facts]:
    name = f"{rng.choice(FIRST)} {rng.choice(LAST)}"
    facts: Facts = {"name": name, "age": rng.randint(18, 90), "city": rng.choice(CITIES)}
    forms = (
        "{name} is {age} years old and lives in {city}.",
        "{name}, aged {age}, comes from {city}.",
        "In {city} lives {name}, who is {age}.",
        "My name is {name}, I am {age} years old and I live in {city}.",
    )
    return rng.choice(forms).format(**facts), facts


def _order(rng: Random) -> tuple[str, Facts]:
    price = rng.randint(2, 400) + rng.choice((0.25, 0.5, 0.75, 0.99))
    facts: Facts = {
        "order_id": rng.randint(1000, 99999), "quantity": rng.randint(2, 60),
        "item": rng.choice(ITEMS), "price": price,
    }  # fmt: skip
    forms = (
        "Order {order_id}: {quantity} {item}s for ${price}.",
        "The customer bought {quantity} {item}s for ${price} (order {order_id}).",
        "Order number {order_id} contains {quantity} {item}s and costs ${price}.",
    )
    return rng.choice(forms).format(**facts), facts


def _meeting(rng: Random) -> tuple[str, Facts]:
    time = f"{rng.randint(8, 19)}:{rng.choice(('00', '15', '30', '45'))}"
    facts: Facts = {
        "name": rng.choice(FIRST), "day": rng.choice(_DAYS), "time": time,
        "room": rng.randint(100, 499),
    }  # fmt: skip
    forms = (
        "The meeting with {name} is on {day} at {time} in room {room}.",
        "{name} will meet us in room {room} on {day} at {time}.",
        "On {day} at {time} we see {name} in room {room}.",
    )
    return rng.choice(forms).format(**facts), facts


def _contact(rng: Random) -> tuple[str, Facts]:
    first, last = rng.choice(FIRST), rng.choice(LAST)
    host = rng.choice(("example.com", "example.org", "mail.example", "example.net"))
    email = f"{first.lower()}.{last.lower()}@{host}"
    phone = f"555-{rng.randint(1000, 9999)}"
    facts: Facts = {"name": f"{first} {last}", "email": email, "phone": phone}
    forms = (
        "{name}'s email is {email} and the phone number is {phone}.",
        "Write to {name} at {email} or call {phone}.",
        "Contact: {name}, {email}, {phone}.",
    )
    return rng.choice(forms).format(**facts), facts


def _book(rng: Random) -> tuple[str, Facts]:
    author = f"{rng.choice(FIRST)} {rng.choice(LAST)}"
    facts: Facts = {
        "title": rng.choice(TITLES), "author": author, "year": rng.randint(1850, 2025)
    }  # fmt: skip
    forms = (
        "The book {title} was written by {author} in {year}.",
        "{author} wrote {title} in {year}.",
        "{title} ({year}) is a novel by {author}.",
    )
    return rng.choice(forms).format(**facts), facts


def _weather(rng: Random) -> tuple[str, Facts]:
    facts: Facts = {
        "city": rng.choice(CITIES), "temperature": rng.randint(-15, 40),
        "condition": rng.choice(WEATHER),
    }  # fmt: skip
    forms = (
        "In {city} it is {temperature} degrees and {condition}.",
        "Today {city} is {condition} with {temperature} degrees.",
        "The weather in {city}: {condition}, {temperature} degrees.",
    )
    return rng.choice(forms).format(**facts), facts


def _job(rng: Random) -> tuple[str, Facts]:
    name = f"{rng.choice(FIRST)} {rng.choice(LAST)}"
    facts: Facts = {"name": name, "job": rng.choice(JOBS), "company": rng.choice(COMPANIES)}
    forms = (
        "{name} works as a {job} at {company}.",
        "{company} hired {name} as a {job}.",
        "{name} is a {job} for {company}.",
    )
    return rng.choice(forms).format(**facts), facts


_SOURCES: tuple[Callable[[Random], tuple[str, Facts]], ...] = (
    _person, _order, _meeting, _contact, _book, _weather, _job,
)  # fmt: skip


def extract(rng: Random) -> Item:
    """Ask for some of a sentence's facts as a JSON object."""
    sentence, facts = rng.choice(_SOURCES)(rng)
    fields = list(facts)
    if rng.random() < 0.5:
        fields = rng.sample(fields, rng.randint(1, len(fields)))
    shown = ", ".join(fields[:-1]) + (" and " if len(fields) > 1 else "") + fields[-1]
    if rng.random() < 0.2:
        shown = ", ".join(fields)
    text = rng.choice(_EXTRACT).format(f=shown, s=sentence)
    answer = json.dumps({field: facts[field] for field in fields})
    return Item(sentence, user(text), answer, wants_json=True)
