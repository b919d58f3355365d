"""Word lists that the curriculum draws from."""

from __future__ import annotations

__all__ = (
    "CITIES",
    "COMPANIES",
    "FIRST",
    "ITEMS",
    "JOBS",
    "LAST",
    "SYLLABLES",
    "TITLES",
    "WEATHER",
    "WORDS",
)

WORDS = tuple(
    """able above actor after again agent album alert amber angle animal answer apple april arrow
    artist atlas author autumn axis bacon badge bakery balance ballet bamboo banana banner barrel
    basket battery beach beacon berry bicycle bird blanket blossom bottle bracket branch bread
    breeze brick bridge bronze bucket budget buffer button cabin cable cactus camera candle canvas
    carbon carpet carrot castle cellar cement chain chalk cheese cherry chess circle circus citrus
    clock cloud clover coast cobalt coffee column comet compass copper coral corner cotton cradle
    crayon cricket crystal curtain cushion dance danger daisy debate decade delta desert detail
    diamond dinner doctor dolphin domain dragon drawer dream driver dusk eagle early earth echo
    effort eleven ember empire engine engineer error evening event fabric factor falcon family
    feather fellow fiddle field figure filter finger flame flavor flower folder forest fossil
    fountain frame friend frozen future galaxy garden garlic gentle ginger glacier glass globe
    golden grape gravel guitar hammer harbor harvest hazel heart helmet hello hollow honey horizon
    hotel hunter icon image inbox index ink insect island ivory jacket jungle junior kernel kettle
    keyboard kitchen kitten ladder lagoon lamp lantern laptop laser lemon letter level library
    light linen lion liquid lizard locket logic lotus lumber lunar machine magnet mango maple
    marble market meadow memory mentor metal meteor middle mirror mississippi model modern moment
    monkey morning mosaic motor mountain music napkin nature needle nephew network nickel night
    noble north novel number oasis object ocean office olive onion opera orange orbit orchid
    origin otter oxygen packet paddle palace panda paper parrot pasta pebble pencil pepper
    petal phone photo piano picnic pilot pixel planet plaza pocket poem polar pond poppy potato
    powder prism pulse pumpkin puzzle python quartz queen quiet quill quire rabbit radar radio
    rain raven reason record ribbon river robin rocket rubber saddle safari sailor salad salmon
    sample sandal saturn school science screen season secret server shadow shelter signal silver
    simple sister sketch socket solar sonnet spark sphere spider spirit spring square stable
    station statue storm strawberry stream string studio summer sunset symbol syrup table tablet
    talent target temple tennis thread thunder ticket tiger timber tomato tornado tower tractor
    travel treasure triangle tulip tunnel turtle umbrella uncle unicorn union update urban valley
    vanilla vector velvet vessel village violet violin vision volcano voyage wagon walnut water
    weather whale wheat whisper willow window winter wisdom wonder world yellow yogurt zebra
    zigzag zipper""".split()
)

SYLLABLES = tuple(
    """ba be bi bo bu ca ce co cu da de di do du fa fe fi fo ga ge gi go ha he hi ho ja jo ju ka
    ke ki ko la le li lo lu ma me mi mo mu na ne ni no nu pa pe pi po pu qua ra re ri ro ru sa se
    si so su ta te ti to tu va ve vi vo wa we wi xa ya yo za ze zo ar el in on ur and ent ing ost
    tra bre cli dro fle gri pla pro sta ster ton man lin der ock ish ack elt""".split()
)

FIRST = tuple(
    """Ada Alan Alice Amir Ana Anna Ben Bob Carla Chen Clara Dan Dana David Elena Ella Emma Eric
    Eva Felix Finn Grace Hana Hugo Ida Igor Ivan Jack Jane Jin John Jonas Julia Kai Karen Kofi
    Lara Leo Lena Lily Linus Lucy Maria Mark Maya Mia Mira Nadia Nina Noah Nora Olga Omar Oscar
    Paul Petra Priya Quinn Rosa Ruth Sam Sara Sofia Tara Theo Tom Uma Vera Victor Wei Yara Yusuf
    Zoe""".split()
)

LAST = tuple(
    """Adams Baker Bauer Berg Brown Chen Clark Costa Cruz Davis Diaz Evans Fischer Garcia Gray
    Gupta Hall Hansen Hill Ito Jones Kaya Keller Khan Kim King Klein Lee Lopez Marsh Meyer Moore
    Mori Novak Okoye Park Patel Perez Reed Rossi Sato Schmidt Silva Singh Smith Stone Tanaka
    Taylor Turner Weber White Wong Young Zhang""".split()
)

CITIES = (
    "Amsterdam", "Athens", "Austin", "Bangkok", "Barcelona", "Basel", "Beijing", "Berlin", "Bern",
    "Boston", "Brussels", "Cairo", "Cape Town", "Chicago", "Cologne", "Copenhagen", "Dallas",
    "Delhi", "Denver", "Dublin", "Geneva", "Hamburg", "Helsinki", "Hong Kong", "Istanbul",
    "Jakarta", "Lagos", "Leipzig", "Lima", "Lisbon", "London", "Lyon", "Madrid", "Melbourne",
    "Mexico City", "Miami", "Milan", "Montreal", "Mumbai", "Munich", "Nairobi", "Naples",
    "New York", "Osaka", "Oslo", "Paris", "Porto", "Prague", "Rome", "San Diego", "Santiago",
    "Seattle", "Seoul", "Singapore", "Stockholm", "Sydney", "Tokyo", "Toronto", "Vienna",
    "Warsaw", "Zurich",
)  # fmt: skip

ITEMS = tuple(
    """apple backpack battery blanket book bottle bowl brush camera candle chair clock cup desk
    fork guitar hammer jacket keyboard knife lamp laptop mirror monitor mug notebook pen pencil
    phone pillow plate poster ruler scarf shirt shoe spoon stamp sticker table ticket towel
    umbrella wallet""".split()
)

JOBS = tuple(
    """accountant analyst architect baker carpenter chemist cook designer developer doctor driver
    electrician engineer gardener journalist lawyer librarian manager nurse painter pharmacist
    photographer pilot plumber programmer researcher scientist tailor teacher translator writer
    """.split()
)

COMPANIES = (
    "Acme", "Blue Harbor", "Brightway", "Cedar Labs", "Delta Works", "Evergreen", "Fernhill",
    "Globex", "Harbor Bank", "Initech", "Juniper House", "Keystone", "Lakeside Clinic",
    "Maple Foods", "Northwind", "Oakridge", "Pinewood Press", "Quarry Steel", "Riverton",
    "Summit Air", "Tidewater", "Umbra Soft", "Vertex", "Westfield School", "Zenith Motors",
)  # fmt: skip

TITLES = (
    "A Winter Road", "Autumn Letters", "Beyond the Harbor", "Blue Morning", "Distant Bells",
    "Empty Rooms", "Falling Leaves", "Glass Towers", "Hidden Rivers", "Iron Bridges",
    "Last Summer", "Midnight Train", "North of Nowhere", "Paper Moons", "Quiet Streets",
    "Red Lanterns", "Silent Water", "Stone and Salt", "The Clockmaker", "The Lost Garden",
    "The Orchard", "The Second Island", "The Tall Ship", "Under the Oak", "Winter Light",
)  # fmt: skip

WEATHER = ("sunny", "cloudy", "rainy", "windy", "snowy", "foggy", "stormy", "clear", "humid")
