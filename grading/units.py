"""The words that a written answer may contain beside mathematics: units, currencies, number words.

Only the words in these lists are units. Any other word makes an answer a text or a phrase, which
equals only the same words. So no word is dropped: 4 is not "4 million", "4 squared" or "4 not".
"""

import re

WITH_PREFIX = """m:meter,meters,metre,metres g:gram,grams s:second,seconds,sec,secs
    L:liter,liters,litre,litres W:watt,watts J:joule,joules N:newton,newtons Hz:hertz V:volt,volts
    Pa:pascal,pascals A:amp,amps,ampere,amperes"""
UNIT_LETTERS = "mgshLNJWV"  # units of one letter, where LaTeX marks it as text
PREFIXES = {"k": "kilo", "c": "centi", "m": "milli", "d": "deci", "M": "mega", "n": "nano"}
OTHERS = """in:inch,inches,in ft:foot,feet,ft yd:yard,yards,yd mi:mile,miles,mi
    lb:pound,pounds,lb,lbs oz:ounce,ounces,oz ton:ton,tons,tonne,tonnes acre:acre,acres
    gal:gallon,gallons,gal quart:quart,quarts pint:pint,pints cup:cup,cups rad:radian,radians,rad
    deg:degree,degrees,deg %:percent,percents,percentage,pct h:hour,hours,hr,hrs
    min:minute,minutes,min,mins day:day,days week:week,weeks month:month,months year:year,years,yr
    $:dollar,dollars,usd,bucks cent:cent,cents euro:euro,euros,eur £:sterling,gbp yuan:yuan,rmb
    rupee:rupee,rupees yen:yen bit:bit,bits byte:byte,bytes kb:kb mb:mb gb:gb mol:mol,moles
    unit:unit,units rpm:rpm K:kelvin ha:hectare,hectares eV:ev dB:db
    amu:amu"""
COUNTED = """animal apple bag ball balloon banana bead bean bird block boat book bottle bowl box
    boy brick bus cake can candle candy car card case cat chair child chip chocolate class coin
    cookie cow customer dime dog dot doughnut egg face fish flower foot friend game girl glass
    goal grape group hat horse house jar kid lap leg letter marble meal melon member minute
    muffin necklace nickel number orange outcome packet page pair parent park party pen pencil
    penny people person piece pie pizza plant plate player point potato problem prize question
    room rope row seat shape shirt shoe shot side slice song stamp sticker stone story student
    subset sweet table tail teacher team ticket tile time tomato toy train tree triangle trip
    turn vehicle vote way wheel window woman word worker"""
IRREGULAR = {"child": "children", "fish": "fish", "foot": "feet", "people": "people",
             "person": "persons", "woman": "women"}
CURRENCIES = {"$": "$", "\u20ac": "euro", "\u00a3": "£", "\u00a5": "yuan", "\u20b9": "rupee",
              "\u00a2": "cent"}
SCALES = {"hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9,
          "trillion": 10**12, "dozen": 12}
SMALL = """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen
    fifteen sixteen seventeen eighteen nineteen""".split()
TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
NUMBERS = {word: n for n, word in enumerate(SMALL)} | {
    word: 10 * n for n, word in enumerate(TENS, 2)}
POWERS = {"square": 2, "sq": 2, "cubic": 3, "cu": 3, "squared": 2, "cubed": 3}
CONNECTIVES = {"and", "or", "per", "am", "pm"}
# a bracket after a number may name what is counted, as in 9 (apples): PEOPLE are plural nouns
# without s, NO_NOUNS are words that end like plural nouns or could change the number
PEOPLE = {"people", "children", "men", "women", "feet", "mice", "geese", "teeth", "fish", "sheep"}
NO_NOUNS = set("""always as dozens false halves hundreds hundredths incorrect invalid is less
    millions minus no not others percents perhaps plus sometimes tens tenths thirds this
    thousands unless was wrong yes""".split())


def plural(noun: str) -> str:
    if noun in IRREGULAR:
        return IRREGULAR[noun]
    if re.search(r"(?:[sx]|ch|sh|to)$", noun):
        return noun + "es"
    return re.sub(r"(?<![aeiou])y$", "ie", noun) + "s"


def unit_table() -> dict[str, str]:
    """Every spelling of every unit, and its symbol."""
    table = {}
    for item in WITH_PREFIX.split():
        symbol, names = item.split(":")
        table[symbol] = symbol
        for name in names.split(","):
            table[name] = symbol
            for letter, prefix in PREFIXES.items():
                table[letter + symbol] = letter + symbol
                if len(name) > 3:
                    table[prefix + name] = letter + symbol
    table |= {"cc": "cm^3", "l": "L", "ml": "mL", "kwh": "kWh", "kph": "km h^-1",
              "mph": "mi h^-1"}
    for item in OTHERS.split():
        symbol, names = item.split(":")
        table |= {name: symbol for name in names.split(",")}
    for noun in COUNTED.split():
        table |= {name: table.get(name, noun) for name in (noun, plural(noun))}
    return table


UNITS = unit_table()


def unit_symbol(token: str) -> str:
    """The symbol of a unit's name; "" for any other token. A single letter is a unit only where
    LaTeX has marked it as text, see lexer.py."""
    if is_unit_letter(token):
        return token[-1]
    return (UNITS.get(token) or UNITS.get(token.lower(), "")) if len(token) > 1 else ""


def is_unit_letter(token: str) -> bool:
    return len(token) == 6 and token[:5] == "\\unit" and token[5] in UNIT_LETTERS


def is_word(token: str) -> bool:
    return len(token) > 1 and token[0].isalpha()


def is_number_word(token: str) -> bool:
    return token.lower() in NUMBERS or scale(token) > 0


def is_known_word(token: str) -> bool:
    lower = token.lower()
    return (unit_symbol(token) != "" or lower in POWERS or is_number_word(token)
            or lower in CONNECTIVES)


def scale(token: str) -> int:
    """The factor of million, thousands, dozen; 0 for any other token."""
    lower = token.lower()
    return SCALES.get(lower) or SCALES.get(lower.removesuffix("s"), 0) if is_word(token) else 0


def counted_noun(words: list[str]) -> str:
    """The noun of a bracket such as (apples) or (pieces of candy); "" for other words."""
    # 1. the noun: the last word, or the one before "of"
    words = [word.lower() for word in words if word != "-"]
    if words[1:] == ["old"]:  # 6 (years old)
        words.pop()
    head = words[words.index("of") - 1] if "of" in words[1:] else words[-1] if words else ""
    # 2. it must be a plural or a unit, beside harmless words
    plural_form = head.endswith("s") and (
        head.endswith("eaus") or not head.endswith(("ss", "us", "is")))
    if not (plural_form or head in PEOPLE or head.endswith("fish") or unit_symbol(head)):
        return ""
    if any(is_number_word(word) or word in CONNECTIVES | NO_NOUNS for word in words):
        return ""
    return unit_symbol(head) if len(words) == 1 and unit_symbol(head) else " ".join(words)
