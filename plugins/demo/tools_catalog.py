"""The tools that the curriculum declares and calls."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

from .words import CITIES, FIRST, ITEMS, WORDS

__all__ = ("TOOLS", "Draw", "Tool")

Draw = Callable[[Random], Any]


@dataclass(frozen=True)
class Tool:
    """A tool with the requests that call it.

    Attributes:
        names: Names it is declared under, one of them at a time.
        description: What it does.
        draws: By parameter, its JSON type and how to draw a value.
        requests: Wordings, with the parameters as placeholders; a parameter that a wording does
            not mention stays out of the call.
        reply: What the assistant says once the tool answered, with `result` as placeholder;
            empty when the curriculum never answers this tool.
        result: How to draw the tool's own result.
    """

    names: tuple[str, ...]
    description: str
    draws: dict[str, tuple[str, Draw]]
    requests: tuple[str, ...]
    reply: str = ""
    result: Draw | None = None

    def declaration(self, name: str) -> dict[str, Any]:
        """Return the tool as OpenAI's API declares it."""
        properties = {key: {"type": kind} for key, (kind, _) in self.draws.items()}
        parameters = {"type": "object", "properties": properties}
        required = [key for key in self.draws if all(f"{{{key}}}" in r for r in self.requests)]
        function = {
            "name": name,
            "description": self.description,
            "parameters": parameters | {"required": required},
        }
        return {"type": "function", "function": function}


def _of(*values: Any) -> Draw:
    """Return a draw among values."""
    return lambda rng: rng.choice(values)


def _between(low: int, high: int) -> Draw:
    """Return a draw of whole numbers."""
    return lambda rng: rng.randint(low, high)


def _time(rng: Random) -> str:
    """Draw a time of day."""
    return f"{rng.randint(6, 22)}:{rng.choice(('00', '15', '30', '45'))}"


def _phrase(rng: Random) -> str:
    """Draw a phrase of two words."""
    return f"{rng.choice(WORDS)} {rng.choice(WORDS)}"


def _email(rng: Random) -> str:
    """Draw an address."""
    return f"{rng.choice(FIRST).lower()}@{rng.choice(('example.com', 'example.org'))}"


def _path(rng: Random) -> str:
    """Draw a file name."""
    folder = rng.choice(("", "data/", "docs/", "src/", "/tmp/"))
    return f"{folder}{rng.choice(WORDS)}.{rng.choice(('txt', 'csv', 'json', 'py', 'md'))}"


_LANGUAGES = _of("French", "German", "Spanish", "Italian", "Japanese", "Dutch", "Polish")
_CITY: tuple[str, Draw] = ("string", _of(*CITIES))
_WEEKDAY = _of("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_MONEY = _of("USD", "EUR", "GBP", "JPY", "CHF")

TOOLS = (
    Tool(
        ("get_weather", "weather", "current_weather"), "Get the weather of a city.",
        {"city": _CITY},
        ("What is the weather in {city}?", "How is the weather in {city} today?",
         "Will I need an umbrella in {city}?", "Tell me the weather for {city}.",
         "What's the weather like in {city}?", "weather in {city} please"),
        "It is {result}.", lambda r: f"{r.randint(-10, 38)} degrees and "
        + r.choice(("sunny", "cloudy", "rainy", "windy", "foggy")),
    ),
    Tool(
        ("get_weather", "weather_forecast", "forecast"), "Get the weather forecast of a place.",
        {"location": _CITY, "unit": ("string", _of("celsius", "fahrenheit"))},
        ("What is the weather in {location} in {unit}?", "Weather in {location}?",
         "What's the weather like in {location}?", "Forecast for {location} in {unit}, please."),
        "The forecast says {result}.", lambda r: f"{r.randint(-10, 38)} degrees",
    ),
    Tool(
        ("get_time", "current_time", "clock"), "Get the local time of a city.", {"city": _CITY},
        ("What time is it in {city}?", "Tell me the time in {city}.", "Current time in {city}?",
         "How late is it in {city}?"),
        "The local time is {result}.", _time,
    ),
    Tool(
        ("search_web", "search", "web_search"), "Search the web.", {"query": ("string", _phrase)},
        ("Search the web for {query}.", "Look up {query} online.", "Find pages about {query}.",
         "Google {query} for me."),
    ),
    Tool(
        ("send_email", "email", "mail"), "Send an email.",
        {"to": ("string", _email), "subject": ("string", _phrase)},
        ("Send an email to {to} about {subject}.", "Email {to} with the subject {subject}.",
         "Write to {to}, subject {subject}."),
    ),
    Tool(
        ("set_timer", "start_timer", "timer"), "Start a timer.",
        {"minutes": ("integer", _between(1, 120))},
        ("Set a timer for {minutes} minutes.", "Start a {minutes} minute timer.",
         "Remind me in {minutes} minutes."),
    ),
    Tool(
        ("convert_currency", "exchange", "currency"), "Convert money between currencies.",
        {"amount": ("integer", _between(1, 999)), "from": ("string", _MONEY),
         "to": ("string", _MONEY)},
        ("Convert {amount} {from} to {to}.", "How much is {amount} {from} in {to}?",
         "Exchange {amount} {from} into {to}."),
        "That is {result}.", lambda r: f"{r.randint(1, 1500)}.{r.randint(10, 99)}",
    ),
    Tool(
        ("translate", "translate_text"), "Translate text.",
        {"text": ("string", _phrase), "language": ("string", _LANGUAGES)},
        ('Translate "{text}" to {language}.', 'How do you say "{text}" in {language}?',
         'What is "{text}" in {language}?'),
    ),
    Tool(
        ("create_event", "add_event", "schedule"), "Put an event into the calendar.",
        {"title": ("string", _phrase), "day": ("string", _WEEKDAY), "time": ("string", _time)},
        ("Schedule {title} on {day} at {time}.", "Add {title} to my calendar, {day} {time}.",
         "Plan {title} for {day} at {time}."),
    ),
    Tool(
        ("get_stock_price", "stock_price", "quote"), "Get the price of a stock.",
        {"symbol": ("string", _of("ACME", "GLBX", "INTC", "ZNTH", "VRTX", "NWND", "MPLF"))},
        ("What is the stock price of {symbol}?", "How is {symbol} trading?", "Price of {symbol}?"),
        "It trades at {result}.", lambda r: f"{r.randint(5, 900)}.{r.randint(10, 99)}",
    ),
    Tool(
        ("set_alarm", "alarm", "wake_me"), "Set an alarm.", {"time": ("string", _time)},
        ("Wake me at {time}.", "Set an alarm for {time}.", "Alarm at {time} please."),
    ),
    Tool(
        ("add_task", "create_todo", "add_todo"), "Add an item to the to-do list.",
        {"title": ("string", _phrase)},
        ("Add {title} to my to-do list.", "Put {title} on my list.", "New task: {title}"),
    ),
    Tool(
        ("read_file", "open_file", "cat"), "Read a file.", {"path": ("string", _path)},
        ("Show me {path}.", "Read the file {path}.", "Open {path}.", "What is in {path}?"),
    ),
    Tool(
        ("add_to_cart", "order_item", "buy"), "Put an item into the shopping cart.",
        {"item": ("string", _of(*ITEMS)), "quantity": ("integer", _between(2, 30))},
        ("Order {quantity} {item}s.", "Put {quantity} {item}s in my cart.",
         "I want to buy {quantity} {item}s."),
    ),
    Tool(
        ("roll_dice", "dice", "throw_dice"), "Roll dice.",
        {"count": ("integer", _between(1, 9)), "sides": ("integer", _of(4, 6, 8, 10, 12, 20))},
        ("Roll {count} dice with {sides} sides.", "Throw {count} {sides}-sided dice."),
        "The dice show {result}.", lambda r: str(r.randint(2, 40)),
    ),
    Tool(
        ("get_population", "population"), "Get the number of inhabitants of a city.",
        {"city": _CITY},
        ("How many people live in {city}?", "What is the population of {city}?"),
        "About {result} people live there.", lambda r: f"{r.randint(10, 990)},000",
    ),
)  # fmt: skip
