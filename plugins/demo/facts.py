"""Definitions of Python's builtins, and small talk."""

from __future__ import annotations

from random import Random

from .example import Item, user

__all__ = ("BUILTINS", "define", "small_talk")

BUILTINS = {
    "abs": "returns the absolute value of a number",
    "all": "returns True if every element of an iterable is true",
    "any": "returns True if at least one element of an iterable is true",
    "ascii": "returns a printable representation of an object with non-ASCII characters escaped",
    "bin": "converts an integer to a binary string that starts with 0b",
    "bool": "converts a value to True or False",
    "breakpoint": "stops the program and starts the debugger",
    "bytearray": "creates a mutable sequence of bytes",
    "bytes": "creates an immutable sequence of bytes",
    "callable": "tells whether an object can be called like a function",
    "chr": "returns the character of a Unicode code point",
    "classmethod": "turns a method into one that receives the class as its first argument",
    "compile": "turns source text into a code object",
    "complex": "creates a complex number",
    "delattr": "deletes an attribute of an object by its name",
    "dict": "creates a dictionary that maps keys to values",
    "dir": "lists the names of an object's attributes",
    "divmod": "returns the quotient and the remainder of a division",
    "enumerate": "yields pairs of an index and an element of an iterable",
    "eval": "evaluates an expression given as a string",
    "exec": "runs Python code given as a string",
    "filter": "keeps the elements of an iterable for which a function returns true",
    "float": "converts a number or a string to a floating point number",
    "format": "formats a value as a string according to a format specification",
    "frozenset": "creates an immutable set",
    "getattr": "returns an attribute of an object by its name",
    "globals": "returns the dictionary of the module's global names",
    "hasattr": "tells whether an object has an attribute of a given name",
    "hash": "returns the hash value of an object",
    "help": "shows the documentation of an object",
    "hex": "converts an integer to a hexadecimal string that starts with 0x",
    "id": "returns the identity of an object as an integer",
    "input": "reads a line of text from the user",
    "int": "converts a number or a string to an integer",
    "isinstance": "tells whether an object is an instance of a class",
    "issubclass": "tells whether a class is derived from another class",
    "iter": "returns an iterator over an object",
    "len": "returns the number of items in a container",
    "list": "creates a mutable sequence of items",
    "locals": "returns the dictionary of the local names",
    "map": "applies a function to every element of an iterable",
    "max": "returns the largest of its arguments or of an iterable's elements",
    "memoryview": "gives access to the memory of a bytes-like object without copying it",
    "min": "returns the smallest of its arguments or of an iterable's elements",
    "next": "returns the next item of an iterator",
    "object": "creates an object of the class that all classes derive from",
    "oct": "converts an integer to an octal string that starts with 0o",
    "open": "opens a file and returns a file object",
    "ord": "returns the Unicode code point of a character",
    "pow": "raises a number to a power",
    "print": "writes its arguments as text to the standard output",
    "property": "turns methods into a managed attribute",
    "range": "creates an immutable sequence of integers, often used in for loops",
    "repr": "returns a string that represents an object for developers",
    "reversed": "returns an iterator over a sequence in reverse order",
    "round": "rounds a number to a given number of digits",
    "set": "creates a mutable collection of distinct items",
    "setattr": "sets an attribute of an object by its name",
    "slice": "creates a slice object that selects a range of indices",
    "sorted": "returns a new sorted list of an iterable's items",
    "staticmethod": "turns a method into one without a self argument",
    "str": "converts an object to a string",
    "sum": "adds up the items of an iterable",
    "super": "gives access to the methods of a parent class",
    "tuple": "creates an immutable sequence of items",
    "type": "returns the type of an object",
    "vars": "returns the dictionary of an object's attributes",
    "zip": "pairs up the elements of several iterables",
}
_DEFINE = (
    "What does {n}() do?", "What does {n} do in Python?", "Explain {n}() in Python.",
    "What is {n} in Python?", "Define {n}().", "What is the builtin {n} for?",
    "Describe the Python function {n}.", "What is {n}() used for?",
    "Tell me about {n}() in Python.",
    "How would you define {n} in Python?", "Python: {n}", "What is the purpose of {n}()?",
    "Give a short definition of {n}.", "Explain the builtin {n}.", "What does the builtin {n} do?",
    "Can you explain {n}()?", "In Python, what does {n} do?", "{n}() in Python?",
    "Please define the Python builtin {n}.", "Briefly, what does {n}() do?",
)  # fmt: skip

_WHO = "I am quire's small embedded demonstration model. I can do simple sums, sort numbers, extract JSON, call tools and write short Python functions."  # noqa: E501
_INTENTS: tuple[tuple[tuple[str, ...], str], ...] = (
    (("Hello", "Hi", "Hey", "Hello there", "Hi there", "Good morning", "Good evening", "Greetings",
      "Good day", "Hello, model", "Hey there", "Hello again", "Good afternoon", "Howdy"),
     "Hello! How can I help you?"),
    (("Who are you", "What are you", "What is your name", "Introduce yourself",
      "Who am I talking to",
      "Are you a language model", "Are you a person", "Are you human", "What model are you",
      "Which model is this", "Tell me about yourself", "Tell me who you are", "Are you ChatGPT",
      "Describe yourself", "Are you a bot", "What's your name"), _WHO),
    (("What can you do", "How can you help me", "What are you good at", "What do you know",
      "Which tasks can you do", "What are your skills", "What can I ask you", "Help",
      "Can you help me", "I need help", "What do you do"),
     "I can do simple sums, compare and sort numbers, change strings, extract JSON, call tools and explain Python's builtins."),  # noqa: E501
    (("How are you", "How is it going", "How do you do", "How are things", "Are you well",
      "How are you doing", "How are you today", "What's up"),
     "I am fine, thank you. How can I help you?"),
    (("Thanks", "Thank you", "Many thanks", "Thank you very much", "Thanks a lot", "That helped",
      "Great, thanks", "Nice, thank you", "Perfect, thanks"), "You are welcome!"),
    (("Bye", "Goodbye", "See you", "Good night", "See you later", "Bye bye", "Farewell",
      "I have to go"),
     "Goodbye!"),
    (("Who made you", "Who trained you", "Who created you", "Where do you come from",
      "How were you made", "How were you trained", "Who built you"),
     "I was trained by quire's own training program on Python source and generated exercises."),
    (("What is quire", "Tell me about quire", "What does quire do", "Explain quire",
      "Describe quire"),
     "quire is an LLM inference engine written in Python. I am its embedded demonstration model."),
    (("What is Python", "Tell me about Python", "Explain Python", "Describe Python"),
     "Python is a programming language known for its readable syntax."),
    (("Tell me a joke", "Make me laugh", "Do you know a joke", "Say something funny",
      "A joke please"),
     "Why do programmers mix up Halloween and Christmas? Because oct 31 is dec 25."),
    (("Tell me a story", "Write a poem", "Write an essay", "Write a song", "Tell me a long story"),
     "I am too small for that, but I can help with sums, strings, JSON and short Python functions."),  # noqa: E501
    (("What is the capital of France", "Which city is the capital of France"),
     "The capital of France is Paris."),
    (("What is the capital of Germany", "Which city is the capital of Germany"),
     "The capital of Germany is Berlin."),
    (("What is the capital of Italy", "Which city is the capital of Italy"),
     "The capital of Italy is Rome."),
    (("What is the capital of Japan", "Which city is the capital of Japan"),
     "The capital of Japan is Tokyo."),
    (("What is the capital of Spain", "Which city is the capital of Spain"),
     "The capital of Spain is Madrid."),
)  # fmt: skip
_OPENERS = ("", "", "", "Hi! ", "Hello. ", "Hey, ", "Please: ", "So, ", "Okay. ", "One question: ")
_CLOSERS = ("", "", ".", "!", "?", "?", " please", ", please.")


def define(rng: Random) -> Item:
    """Ask what a builtin does."""
    name = rng.choice(tuple(BUILTINS))
    text = rng.choice(_DEFINE).format(n=name)
    return Item(text, user(text), f"{name}() {BUILTINS[name]}.")


def small_talk(rng: Random) -> Item:
    """Greet, thank, or ask the model about itself."""
    questions, answer = rng.choice(_INTENTS)
    text = rng.choice(questions)
    if rng.random() < 0.3:
        text = text.lower()
    plain = rng.random() < 0.4
    full = text if plain else rng.choice(_OPENERS) + text + rng.choice(_CLOSERS)
    # The bare phrases are what people type first: they are never held out.
    return Item("" if full == text else full, user(full), answer)
