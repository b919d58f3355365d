"""Classic short functions with varied names, as source files and as chat answers."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from string import Template

from .example import Item, user
from .snippet_texts import SNIPPETS

__all__ = ("Snippet", "source_file", "write_function")


@dataclass(frozen=True)
class Snippet:
    """A parsed snippet.

    Attributes:
        about: What the function does, as the end of "a function that ...".
        doc: First line of the docstring.
        names: Choices by placeholder; the first of each is the canonical one.
        source: Source with placeholders.
    """

    about: str
    doc: str
    names: dict[str, tuple[str, ...]]
    source: str


def _parse(block: str) -> Snippet:
    """Parse one block: about, docstring, choices by placeholder, then source."""
    head, _, source = block.strip("\n").partition("\n---\n")
    about, doc, *choices = head.splitlines()
    names = {}
    for line in choices:
        key, _, words = line.partition(":")
        names[key.strip()] = tuple(words.split())
    return Snippet(about.strip(), doc.strip(), names, source.rstrip("\n"))


_PARSED = tuple(_parse(block) for block in SNIPPETS.split("\n===\n"))

# Wordings that give the whole signature, the name alone, or only what the function does.
_SIGNED = (
    "Write a Python function {s} that {a}.", "Write a function {s} that {a}.",
    "Write {s} in Python: a function that {a}.", "Please write a Python function {s} that {a}.",
    "Implement {s}, which {a}.", "I need a Python function {s} that {a}.",
    "Show me a Python function {s} that {a}.", "Code a function {s} that {a}, please.",
    "Write a function {s}.", "Implement {s}.", "Write {s} in Python.", "Please implement {s}.",
    "Write a Python function {s}.",
)  # fmt: skip
_NAMED = (
    "Write a function {f} that {a}.", "Write a Python function called {f}.",
    "Write a function named {f} that {a}.", "Implement {f}.", "Write a function {f}.",
    "Show me {f} in Python.", "Can you write {f} in Python?", "Write {f} for me.",
)  # fmt: skip
_PLAIN = (
    "Write a Python function that {a}.", "Write a function that {a}.", "Write a function to {v}.",
    "Write a Python function to {v}.", "Can you write a Python function that {a}?",
    "Can you write me a Python function to {v}?", "How do I {v} in Python?",
    "Write Python code to {v}.", "Give me a function that {a}.", "Please write code to {v}.",
    "I need a function to {v}.", "Show me how to {v} in Python.", "python function to {v}",
)  # fmt: skip


def _render(snippet: Snippet, names: dict[str, str], doc: bool) -> str:
    """Fill in a snippet's names, with or without its docstring."""
    lines = Template(snippet.source).substitute(names).splitlines()
    if doc:
        lines.insert(1, f'    """{snippet.doc}"""')
    return "\n".join(lines)


def _choose(rng: Random, snippet: Snippet) -> dict[str, str]:
    """Draw a name for every placeholder."""
    return {
        key: words[0] if rng.random() < 0.3 else rng.choice(words)
        for key, words in snippet.names.items()
    }


def _infinitive(about: str) -> str:
    """Turn "sorts a list" into "sort a list"."""
    verb, _, rest = about.partition(" ")
    verb = "search" if verb == "searches" else verb.removesuffix("s")
    return f"{verb} {rest}"


def write_function(rng: Random) -> Item:
    """Ask for a function, by its signature, its name or what it does."""
    snippet = rng.choice(_PARSED)
    shown = snippet.source.partition("\n")[0]
    wordings = rng.choice((_SIGNED, _SIGNED, _NAMED, _PLAIN, _PLAIN))
    # Only what the question names may vary: the rest of the answer has to be predictable.
    names = {key: words[0] for key, words in snippet.names.items()}
    chosen = _choose(rng, snippet)
    if wordings is _SIGNED:
        names |= {key: name for key, name in chosen.items() if f"${key}" in shown}
    elif wordings is _NAMED:
        names["f"] = chosen["f"]
    code = _render(snippet, names, doc=False)
    signature = code.splitlines()[0].removeprefix("def ").removesuffix(":")
    about = snippet.about
    asked = rng.choice(wordings).format(s=signature, f=names["f"], a=about, v=_infinitive(about))
    return Item(asked, user(asked), code)


def source_file(rng: Random) -> str:
    """Draw a small source file of one to four functions."""
    parts = []
    for snippet in rng.sample(_PARSED, rng.choice((1, 1, 2, 3, 4))):
        parts.append(_render(snippet, _choose(rng, snippet), doc=rng.random() < 0.4))
    if rng.random() < 0.2:
        parts.insert(0, '"""Small helpers."""')
    return "\n\n\n".join(parts) + "\n"
