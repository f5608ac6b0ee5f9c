"""English text for experiments: a generated corpus, and prose written by people.

`documents` writes stories, reports, letters, field guides, instructions, conversations and essays
from the word lists and sentence templates below. All of them were written for this repository, so
the text is free to ship, and it is the same on every machine: the only source of randomness is
`random.Random.random`, whose sequence Python guarantees, and every document depends on nothing but
its seed and its number. The tiny language models of this package are trained on it; the same
generator with another seed gives text that no watermark has touched.

`stdlib_text` reads the documentation that people wrote inside the running interpreter's standard
library. It is read where it is installed and never copied into the package.

Takes seeds and sizes, returns `str`. Knows nothing about tokens, models or watermarks.
"""

from __future__ import annotations

import ast
import itertools
import random
import re
import sysconfig
from collections import deque
from collections.abc import Iterator
from pathlib import Path

__all__ = ["corpus_text", "document", "documents", "stdlib_text"]


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.replace("_", " ") for word in text.split())


def _lines(text: str) -> tuple[str, ...]:
    return tuple(line.strip() for line in text.strip().splitlines())


_IRREGULAR_PLURALS = {
    "deer": "deer",
    "goose": "geese",
    "knife": "knives",
    "leaf": "leaves",
    "loaf": "loaves",
    "mouse": "mice",
    "salmon": "salmon",
    "scarf": "scarves",
    "sheep": "sheep",
    "shelf": "shelves",
    "trout": "trout",
    "wolf": "wolves",
}


def _plural(noun: str) -> str:
    head, _, last = noun.rpartition(" ")
    if last in _IRREGULAR_PLURALS:
        last = _IRREGULAR_PLURALS[last]
    elif last.endswith("man"):
        last = last[:-3] + "men"
    elif last.endswith(("s", "x", "ch", "sh")):
        last += "es"
    elif last.endswith("y") and last[-2] not in "aeiou":
        last = last[:-1] + "ies"
    else:
        last += "s"
    return f"{head} {last}" if head else last


_WOMEN = _words("""
    Maud Agnes Clara Edith Ingrid Nora Ruth Helen Tilda Vera Martha Rosa Lena Judith Hilda Dora
    Frieda Alma Greta Susan Emma Ada Marian Olive Petra Sylvia Wanda Yvonne Bridget Katrin
""")
_MEN = _words("""
    Tomas Edgar Oskar Henry Walter Simon Jakob Martin Albert Rufus Hugo Peter Conrad Felix George
    Emil Anton Victor Samuel Ivan Leo Oliver Paul Ralph Stefan Theo Ulrich William Arthur Bruno
""")
_TOWN_HEADS = _words("""
    Alder Ash Birch Black Bram Cold Crow Dun East Elm Fair Fern Gold Grey Hart Hazel Kings Lang
    Marsh Mill North Oak Raven Red Salt Sand Silver Stone Thorn West White Winter
""")
_TOWN_TAILS = _words("ford ton ham bridge field mouth wick well gate haven dale ley")

# Past tense, -ing form: what somebody does to a thing that can be held.
_HANDLING = """
    carried/carrying wrapped/wrapping hid/hiding polished/polishing mended/mending found/finding
    bought/buying sold/selling lifted/lifting dropped/dropping painted/painting stole/stealing
    borrowed/borrowing examined/examining cleaned/cleaning buried/burying brought/bringing
    measured/measuring opened/opening kept/keeping weighed/weighing repaired/repairing
    lost/losing noticed/noticing held/holding drew/drawing described/describing chose/choosing
    returned/returning packed/packing broke/breaking turned_over/turning_over
    admired/admiring collected/collecting fetched/fetching hung_up/hanging_up
    locked_away/locking_away put_down/putting_down set_aside/setting_aside traded/trading
    unpacked/unpacking tested/testing touched/touching recognised/recognising
    threw_away/throwing_away picked_up/picking_up remembered/remembering
"""
_MOVING = """
    walked/walking hurried/hurrying rode/riding climbed/climbing wandered/wandering ran/running
    returned/returning travelled/travelling crept/creeping marched/marching sailed/sailing
    limped/limping strolled/strolling followed_the_path/following_the_path drove/driving
    went_back/going_back raced/racing drifted/drifting set_out/setting_out rowed/rowing
    stumbled/stumbling made_a_slow_way/making_a_slow_way cycled/cycling turned/turning
"""


def _pairs(text: str, part: int) -> tuple[str, ...]:
    return tuple(pair.split("/")[part].replace("_", " ") for pair in text.split())


_ANIMALS = _words("""
    dog cat horse fox crow heron goat goose otter owl hare badger sheep swan donkey gull mouse
    rabbit hen beaver wolf deer pigeon hedgehog toad stork squirrel robin duck bat hawk lizard
    salmon trout eel crane raven lark mole weasel spider moth beetle bee
""")
_PEOPLE = _words("""
    teacher sailor baker doctor farmer clerk carpenter miller shepherd painter tailor gardener
    blacksmith fisherman merchant nurse judge musician postman weaver beekeeper captain cook
    librarian clockmaker watchman printer stranger soldier hunter engineer widow student porter
    ferryman surveyor potter innkeeper priest mapmaker driver messenger glazier mason child
    neighbour visitor thief poet guard singer pilot mayor apprentice lamplighter
""")
_THINGS = _words("""
    lantern key map box letter book coin knife basket rope clock ring mirror hammer bottle cup
    coat drum candle violin ladder lamp shovel blanket hat boot bell kettle chair barrel needle
    compass notebook flute whistle medal ribbon pipe saddle bucket spoon plate jar net saw wheel
    chest photograph painting scarf umbrella telescope thermometer ticket shell stone feather
    seed nail button comb purse stamp pencil parcel newspaper pot trumpet toy chain lock brush
    tray vase cage kite magnet pump lens dial gear hinge pulley
""")
_PLACES = _words("""
    harbour mill market orchard library river bridge forest church garden station inn kitchen
    tower square field cellar workshop lake beach hill barn road well castle school valley
    lighthouse bakery cemetery quarry ferry attic marsh canal stable chapel island courtyard
    meadow theatre cave pond hospital museum greenhouse town_hall post_office shore windmill
    vineyard monastery border pass fountain gate wall customs_house observatory
""")
_PLANTS = _words("""
    oak birch willow apple_tree rose nettle fern thistle pine ivy reed clover moss elder hazel
    poppy lily mint heather maple bramble daisy juniper cherry_tree sage foxglove holly
""")
_FOODS = _words("""
    bread soup cheese butter honey milk barley salt tea porridge fish cake stew jam bacon rice
    cabbage pepper wine beer coffee vinegar sugar cream mustard oats plum_pie onion_soup
    roast_mutton pickled_herring
""")
_MATERIALS = _words("""
    copper wooden silver iron brass glass leather stone clay tin woollen golden linen ivory oak
    paper pewter steel velvet bronze
""")
_COLOURS = _words("red blue green white black grey yellow brown dark_green pale_blue scarlet")
_THING_WORDS = _words("""
    old small heavy broken strange new little beautiful dusty cheap rare long empty plain
    battered narrow precious ugly round borrowed cracked forgotten polished crooked rusty
    delicate square tiny enormous familiar half-finished
""")
_PERSON_WORDS = _words("""
    old young tired kind quiet clever stubborn honest tall proud careful curious lonely patient
    nervous cheerful rich poor brave gentle angry lazy famous silent grumpy blind generous
    suspicious absent-minded well-dressed
""")
_PLACE_WORDS = _words("""
    old empty quiet narrow crowded cold abandoned distant sunny muddy little dark peaceful
    ruined busy flooded windy deserted pleasant steep foggy hidden ancient
""")
_FEELINGS = _words("""
    tired happy afraid angry surprised hungry ashamed proud calm sad curious worried grateful
    lonely certain relieved restless bored sorry delighted puzzled ready unwell
""")
_ABSTRACT = _words("""
    patience courage memory time silence hope luck work trust money kindness fear truth justice
    habit wisdom friendship freedom duty beauty pride love knowledge curiosity weather sleep
    anger music experience skill doubt order peace chance hunger honesty age fame
""")
_ADVERBS = _words("""
    slowly quietly carefully suddenly quickly at_once without_a_word gently secretly politely
    at_last again patiently angrily happily with_great_care in_silence reluctantly proudly
    by_mistake on_purpose with_a_smile as_usual in_a_hurry bravely softly twice by_chance
    with_both_hands all_alone
""")
_MONTHS = _words("""
    January February March April May June July August September October November December
""")
_NUMBER_WORDS = _words("""
    two three four five six seven eight nine ten eleven twelve fifteen twenty thirty forty a_dozen
    a_hundred
""")

# `[name]` is replaced by one entry of the rule `name`, `{name}` by what the document has fixed
# (its hero, its town …), and `<text>` is kept with probability 0.4. Entries early in a list are
# drawn more often than late ones, as words in real text are.
_RULES: dict[str, tuple[str, ...]] = {
    "animal": _ANIMALS,
    "animals": tuple(_plural(noun) for noun in _ANIMALS),
    "people": tuple(_plural(noun) for noun in _PEOPLE if noun != "child"),
    "things": tuple(_plural(noun) for noun in _THINGS),
    "person": _PEOPLE,
    "object": _THINGS,
    "site": _PLACES,
    "sites": tuple(_plural(noun) for noun in _PLACES),
    "plant": _PLANTS,
    "plants": tuple(_plural(noun) for noun in _PLANTS),
    "food": _FOODS,
    "material": _MATERIALS,
    "colour": _COLOURS,
    "thingword": _THING_WORDS,
    "personword": _PERSON_WORDS,
    "placeword": _PLACE_WORDS,
    "feeling": _FEELINGS,
    "abstract": _ABSTRACT,
    "adverb": _ADVERBS,
    "handled": _pairs(_HANDLING, 0),
    "handledonce": tuple(verb for verb in _pairs(_HANDLING, 0) if " " not in verb),
    "handling": _pairs(_HANDLING, 1),
    "moved": _pairs(_MOVING, 0),
    "moving": _pairs(_MOVING, 1),
    "anyname": _WOMEN + _MEN,
    "anytown": tuple(head + tail for tail in _TOWN_TAILS for head in _TOWN_HEADS),
    "month": _MONTHS,
    "day": tuple(str(day) for day in range(1, 29)),
    "year": tuple(str(year) for year in range(1890, 1790, -1)),
    "hour": _words("six seven eight nine ten eleven four five three two"),
    "number": _NUMBER_WORDS,
    "amount": tuple(str(amount) for amount in range(2, 100)),
    "season": _words("winter spring autumn summer"),
    "weekday": _words("Monday Tuesday Wednesday Thursday Friday Saturday Sunday"),
    "measure": _words("pounds bottles cups sacks spoonfuls barrels handfuls jars slices bowls"),
    "length": _words("feet inches yards miles"),
    "distance": _lines("""
        [number] miles
        an hour's walk
        half a day's ride
        not far
        [number] hundred yards
        a good [amount] [length]
    """),
    "relation": _words("""
        mother father sister brother uncle aunt grandmother grandfather cousin wife husband
        daughter son employer teacher
    """),
    "thing": _lines("""
        [object]
        [thingword] [object]
        [material] [object]
        [colour] [object]
        [thingword] [material] [object]
        [object] of [abstract]
    """),
    "athing": _lines("""
        the [thing]
        a [thing]
        {his} [thing]
        {the_thing}
        the [person]'s [object]
        a [thing] from [anytown]
        [number] [things]
        the [object] that the [person] had left behind
        one of the [things]
        some [food]
        every [object] in the [site]
        a [object] full of [food]
    """),
    "aperson": _lines("""
        the [person]
        a [personword] [person]
        {friend}
        {his} [relation]
        the [personword] [person]
        the [person] of {town}
        a [person] from [anytown]
        a [person] with a [thing]
        [anyname] the [person]
        one of the [people]
    """),
    "where": _lines("""
        in the [site]
        at the [site]
        near the [site]
        behind the [site]
        by the [placeword] [site]
        under the [plant]
        in {town}
        between the [site] and the [site]
        at the edge of the [site]
        beside a [placeword] [site]
        on the road to [anytown]
        among the [plants]
        outside the [person]'s house
    """),
    "whither": _lines("""
        to the [site]
        towards the [site]
        to {town}
        down to the [placeword] [site]
        through the [placeword] [site]
        across the [site]
        home
        past the [site] and the [site]
        up to the [site]
        along the [site]
        to the [person]'s house
        as far as [anytown]
        into the [site]
    """),
    "when": _lines("""
        in the morning
        that evening
        the next day
        at dawn
        one [weekday]
        before supper
        at [hour] o'clock
        in the [season]
        late at night
        after [number] days
        on a cold [month] morning
        when the rain stopped
        at the end of [month]
        a week later
        soon afterwards
        when the bells rang
        long before sunrise
    """),
    "weather": _lines("""
        the rain fell
        the wind came from the [site]
        snow covered the [site]
        the sun rose over the [site]
        fog lay over the [site]
        it was [season] in {town}
        the sky turned [colour]
        thunder rolled above the [plants]
        the [animals] were silent
        the ice on the [site] began to break
        the moon stood above the [placeword] [site]
    """),
    "later": _lines("""
        tomorrow
        on [weekday]
        before supper
        in the [season]
        after the feast
        at [hour] o'clock
        when the [site] opens
        in [number] days
        as soon as the rain stops
        with the first [animals] of the [season]
    """),
    "because": _lines("""
        because {he} was [feeling]
        because the [site] was closed
        so that nobody would see the [object]
        although {friend} was [feeling]
        while the [animals] slept
        until the [person] came back
        before the [site] caught fire
        since there was no [food] left
        as the [person] had promised
        for {he} did not trust the [person]
        in order to find the [object]
        while [weather]
        as if nothing had happened
        even though it was [season]
    """),
    "said": _words("said whispered answered shouted cried muttered replied called"),
    "speech": _lines("""
        I have never seen such a [thing]
        you must go [whither] at once
        the [person] knows more than you think
        we shall need a [thing]
        there is no [food] left
        my [relation] once had a [animal] like that
        nobody has seen the [person] since [month]
        this [object] belongs to the [person]
        I am [feeling], and so are you
        it is too late for [abstract]
        give me the [object] and go
        the [site] is [distance] from here
        [abstract] is worth more than [abstract]
        I heard the [animals] [where]
        do not touch the [material] [object]
        you will find it [where]
        my name is [anyname], and I am a [person]
        come back [later]
        we must leave [later]
        I can smell [food] and [food]
        the [person] is [feeling] and wants to see you
        a [object] is no use without a [object]
        I learned [abstract] from a [person] in [anytown]
        your [relation] was the best [person] in [anytown]
        look at the [animals] [where]
        they say that the [site] is full of [things]
        I would give [number] [things] for some [food]
        it was the [person] who took the [object]
        somebody has stolen the [thing]
        I paid [amount] crowns for that [object]
    """),
    "question": _lines("""
        where is the [object]
        who lives in the [site]
        have you seen my [animal]
        why are you so [feeling]
        what did the [person] tell you
        how far is it to [anytown]
        do you believe in [abstract]
        when does the [site] open
        is there any [food] left
        what shall we do with the [thing]
        are you not [feeling]
        which [object] is yours
        can you hear the [animals]
        shall we meet [later]
        what is [abstract] without [abstract]
        may I borrow your [object]
    """),
    "utterance": _lines("""
        "[speech]," [said] {friend}.
        "[speech]," [said] {hero}.
        "[question]?" asked {friend}.
        "[question]?" asked the [person].
        "[speech]," [said] [aperson] <[adverb]>.
        {friend} [said]: "[speech]."
        "No," [said] {hero}. "[speech]."
        "Yes," [said] the [personword] [person], "but [speech]."
        "[question]?" {he} asked. "[speech]," [said] {friend}.
        "If [weather]," [said] {friend}, "[speech]."
    """),
    "act": _lines("""
        {hero} [handled] [athing] <[adverb]>
        {he} [moved] [whither] <[when]>
        {hero} [moved] [whither] with [aperson]
        {he} [handled] [athing] and [moved] [whither]
        {friend} [handled] [athing] [where]
        [aperson] [handled] [athing] <[where]>
        [aperson] [moved] [whither] <[adverb]>
        {he} stopped [where] and [handled] [athing]
        {friend} gave {him} [athing]
        {hero} showed {the_thing} to [aperson]
        {he} sat down [where] and ate some [food]
        {hero} asked [aperson] about {the_thing}
        {he} found [aperson] [where], [handling] [athing]
        {friend} and {hero} [moved] [whither]
        [aperson] told {him} about the [site]
        {he} waited [where] for [number] hours
        {he} began [handling] [athing]
        {hero} dreamed of [abstract] and of [animals]
        {hero} saw [number] [animals] [where]
        the [animal] ran [whither], and {hero} followed
    """),
    "scene": _lines("""
        [act].
        [when], [act].
        [act] [because].
        [act], and [act].
        [utterance]
        [weather], and [act].
        [act] and, [when], [act].
        {he} was [feeling] <[because]>.
        [act], but {he} was [feeling].
        there was a [thing] [where], and [aperson] [handledonce] it [adverb].
        without [moving] [whither], nobody could find the [site].
        after [handling] [athing], {he} [moved] [whither].
        {hero} had not forgotten the [person] of [anytown].
        the [site] was [placeword], and the [animals] were [feeling].
        nobody in {town} knew that [aperson] had [number] [things].
        instead of [handling] [athing], {friend} [moved] [whither].
        all that was left of the [site] was a [thing].
        [when] {he} felt [feeling], for [weather].
    """),
    "opening": _lines("""
        {hero} was a [personword] [person] who lived [where].
        in the [season] of [year] a [personword] [person] named {hero} came to {town}.
        once there was a [person] in {town} who owned {the_thing}.
        [when], {hero} found {the_thing} [where].
        nobody in {town} had ever seen {the_thing} before {hero} came.
        {hero} and {friend} had lived in {town} for [number] years.
        the [person] of {town} had a secret: {he} had [number] [animals].
    """),
    "ending": _lines("""
        and so {hero} kept {the_thing} for the rest of {his} life.
        {hero} never returned to {town}.
        {he} put {the_thing} back [where] and went home.
        from that day on, {friend} and {hero} were friends.
        when {hero} died in [year], the [person] of {town} found {the_thing} [where].
        since then nobody has spoken of the [object] in {town}.
        and if the [site] has not fallen down, it is still there.
        "[speech]," [said] {friend}, and that was the end of it.
    """),
    "logged": _lines("""
        {hero} counted [amount] [animals] [where].
        the [person] reported that the [site] was [placeword].
        we sold [amount] [measure] of [food] to a [person] from [anytown].
        wind from the north, [weather].
        [number] [people] arrived with a [thing].
        the [object] was repaired at a cost of [amount] crowns.
        {friend} inspected the [site] and found a [thing].
        a [animal] was seen [where], [amount] [length] from the [site].
        no [food] since [weekday]; the [people] are [feeling].
        rain at [hour] o'clock; the [site] was closed until [hour].
        {hero} was ill, and {friend} took over the [site].
        the price of [food] rose from [amount] to [amount] crowns.
        [amount] [things] are missing from the [site].
        the [site] at [anytown] is [distance] away and still [placeword].
        the [person] asked for [amount] more [things].
        nothing to report, except that [weather].
    """),
    "greeting": _lines("""
        I hope that you are well and that the [site] is not too [placeword].
        thank you for the [thing], which arrived on [weekday].
        your letter of [day] [month] reached me [where].
        it is [season] here, and I am [feeling].
        forgive me for not writing; I was [handling] [athing].
    """),
    "news": _lines("""
        [when], [aperson] [handled] [athing] [where].
        you will remember the [person] who [handled] my [thing].
        your [relation] came to see me and brought some [food].
        I [moved] [whither] <with [aperson]> and saw [number] [animals].
        they have built a new [site] near the [site].
        please send me [number] [things] and a little [food].
        the [animal] that you gave me is [feeling].
        everybody here talks about [abstract], but nobody about [abstract].
        I am thinking of [handling] the [thing] and [moving] [whither].
        do you still have the [thing]?
        the doctor says that I need [abstract] and more [food].
        [weather], and I thought of you.
        I have been [feeling] since the [people] left.
        if you see {friend}, tell {fhim} that [speech].
        I bought [athing] for only [amount] crowns.
    """),
    "habitat": _lines("""
        [placeword] [sites]
        the [plants] of the north
        the reeds by the river
        old walls
        the hills around {town}
        open fields
        the roots of the [plant]
    """),
    "diet": _lines("""
        [food]
        small [animals]
        the seeds of the [plant]
        [plants] and [plants]
        whatever it can find [where]
        young [plants]
    """),
    "fact": _lines("""
        it feeds on [diet] and on [diet].
        it is rarely seen before [month].
        in [season] it leaves [habitat] and moves [whither].
        the female is larger than a [animal] and has a [colour] head.
        its voice is like that of a [animal], but deeper.
        farmers say that it brings [abstract] to the house.
        it weighs about [amount] pounds less than a [animal].
        the young are [colour] at first and turn [colour] in [month].
        it builds its nest [where], often out of [material] threads and [plants].
        when it is [feeling], it hides [where].
        the [people] of {town} hunt it for its [colour] feathers.
        in [year] {hero} counted [amount] of them [where].
        a [person] from [anytown] kept one in a [object] for [number] years.
        it can live for [amount] years <[where]>.
        its worst enemy is the [animal].
        according to {hero}, it is often [feeling] in the [season].
        unlike the [animal], it sleeps [where].
    """),
    "step": _lines("""
        take [number] [measure] of [food] and put them into a [thing].
        add the [food] <[adverb]>.
        stir it with a [material] [object] until it turns [colour].
        wait [number] minutes.
        clean the [object] with [food] and a [colour] brush.
        cut the [plants] into [number] pieces.
        tie the [object] to the [object] with a [material] chain.
        leave everything [where] for [amount] hours.
        do not use a [material] [object], or the [food] will spoil.
        boil the [food] with some [plants].
        hang the [object] [where] to dry.
        turn the [object] [adverb].
        measure the [object]: it should be [amount] [length] long.
        ask a [person] to hold the [object].
        paint it [colour] <or [colour]>.
        serve it with [food] and [food].
        if it smells of [food], begin again.
        keep the rest in a [thing] for the [season].
    """),
    "thought": _lines("""
        [abstract] is not the same as [abstract].
        a [person] without [abstract] is like a [site] without a [object].
        {hero} once wrote that [abstract] begins with [abstract].
        there is no [abstract] without [abstract].
        we speak of [abstract] as if it were a [thing].
        when we are [feeling], we think of [abstract]; when we are [feeling], of [abstract].
        a [personword] [person] does not need [abstract].
        in {town} they say that [abstract] is worth more than [food].
        the [people] of {town} have more [abstract] than [food].
        it is easy to lose [abstract] and hard to find it again <[where]>.
        whoever has seen a [animal] [where] knows what [abstract] means.
        some people look for [abstract] [where]; others find it [where].
        for [number] years I believed in [abstract].
        and yet [abstract] can be learned, like [handling] [athing].
        perhaps [abstract] is only another word for [abstract].
        my [relation] used to say that [speech].
        if [abstract] were a [animal], it would live [where].
        nothing teaches [abstract] better than a [thing].
        children have [abstract], but they lack [abstract].
        give a [person] [food] and you will be asked for [abstract].
        what {hero} called [abstract], I call [abstract].
        the [animal] has [abstract] enough and asks for no [object].
        after [number] years [where], one learns [abstract].
        [abstract] comes [adverb], and it leaves [adverb].
    """),
}  # fmt: skip

_TOKEN = re.compile(r"\[(\w+)\]|\{(\w+)\}|<([^<>]*)>")
_SENTENCE_START = re.compile(r"((?:^|[.?!] ))([a-z])")
_QUOTE_START = re.compile(r'((?:^|(?<!,) )")([a-z])')
_ARTICLE = re.compile(r"\b([Aa]) (?=[aeiouAEIO])")
_OPTIONAL_PROBABILITY = 0.4
# Sentences before a template may come again; every sentence rule has more templates than that.
_TEMPLATE_REST = 5


class _Writer:
    """One document in the making: its random numbers and what it has decided about its world."""

    def __init__(self, seed: int, index: int) -> None:
        # Strings are seeded through SHA-512, so neighbouring documents share nothing.
        self.rng = random.Random(f"modicum corpus {seed} {index}")
        hero_is_woman, friend_is_woman = self.chance(0.5), self.chance(0.5)
        hero = self.choose(_WOMEN if hero_is_woman else _MEN)
        friend = hero
        while friend == hero:
            friend = self.choose(_WOMEN if friend_is_woman else _MEN)
        self.slots = {
            "hero": hero,
            "he": "she" if hero_is_woman else "he",
            "him": "her" if hero_is_woman else "him",
            "his": "her" if hero_is_woman else "his",
            "friend": friend,
            "fhim": "her" if friend_is_woman else "him",
            "town": self.choose(_RULES["anytown"]),
        }
        self.recent: deque[str] = deque(maxlen=_TEMPLATE_REST)
        self.slots["the_thing"] = "the " + self.write("[thing]")

    def below(self, n: int) -> int:
        return int(self.rng.random() * n)

    def between(self, low: int, high: int) -> int:
        return low + self.below(high - low + 1)

    def chance(self, probability: float) -> bool:
        return self.rng.random() < probability

    def choose(self, options: tuple[str, ...]) -> str:
        u = self.rng.random()
        return options[int(u * u * len(options))]

    def write(self, template: str) -> str:
        def replace(match: re.Match[str]) -> str:
            rule, slot, optional = match.groups()
            if rule:
                return self.write(self.choose(_RULES[rule]))
            if slot:
                return self.slots[slot]
            return self.write(optional) if self.chance(_OPTIONAL_PROBABILITY) else ""

        return _TOKEN.sub(replace, template)

    def sentence(self, template: str) -> str:
        text = " ".join(self.write(template).split())
        text = re.sub(r" (?=[.,;?!])", "", text)
        text = _ARTICLE.sub(r"\1n ", text)
        text = _QUOTE_START.sub(lambda m: m[1] + m[2].upper(), text)
        return _SENTENCE_START.sub(lambda m: m[1] + m[2].upper(), text)

    def paragraph(self, rule: str, low: int, high: int) -> str:
        sentences = []
        for _ in range(self.between(low, high)):
            template = self.fresh(_RULES[rule])
            sentences.append(self.sentence(template))
        return " ".join(sentences)

    def fresh(self, templates: tuple[str, ...]) -> str:
        """Draw from the templates that the last few sentences have not used."""
        template = self.choose(tuple(t for t in templates if t not in self.recent))
        self.recent.append(template)
        return template

    def paragraphs(
        self, rule: str, *, count: tuple[int, int], length: tuple[int, int]
    ) -> list[str]:
        return [self.paragraph(rule, *length) for _ in range(self.between(*count))]

    def title(self, template: str) -> str:
        words = self.write(template).split()
        small = {"a", "and", "at", "for", "from", "in", "of", "out", "the", "to", "with"}
        return " ".join(
            word if position and word in small else word[0].upper() + word[1:]
            for position, word in enumerate(words)
        )

    def story(self) -> list[str]:
        body = self.paragraphs("scene", count=(4, 10), length=(3, 7))
        body[0] = self.sentence("[opening]") + " " + body[0]
        body[-1] += " " + self.sentence("[ending]")
        titles = _lines("""
            {the_thing}
            the [person] of {town}
            {hero} and the [animal]
            the [placeword] [site]
            a [object] for {friend}
        """)
        return [self.title(self.choose(titles)), *body]

    def report(self) -> list[str]:
        place, year, month = self.write("[site]"), self.write("[year]"), self.write("[month]")
        day = self.between(1, 6)
        entries = []
        for _ in range(self.between(7, 14)):
            entries.append(f"{day} {month}. {self.paragraph('logged', 2, 4)}")
            day += self.between(1, 3)
            if day > 28:
                break
        return [self.title(f"report from the {place} at {{town}}, {year}"), *entries]

    def letter(self) -> list[str]:
        self.slots["his"] = "my"
        body = self.paragraphs("news", count=(3, 6), length=(4, 8))
        body[0] = self.sentence("[greeting]") + " " + body[0]
        endings = _lines("""
            Yours, {hero}
            Your [relation], {hero}
            With love from {hero}
            Your friend {hero}
        """)
        opening = self.write("{town}, [day] [month] [year]") + "\n" + self.write("Dear [anyname],")
        return [opening, *body, self.write(self.choose(endings))]

    def guide(self) -> list[str]:
        name = self.write("[placeword] [animal]" if self.chance(0.5) else "[plant] [animal]")
        first = self.sentence(
            f"the {name} is a [personword] [animal] that lives in [habitat] and in [habitat]."
        )
        body = self.paragraphs("fact", count=(4, 7), length=(4, 6))
        body[0] = first + " " + body[0]
        return [self.title(f"the {name}"), *body]

    def instructions(self) -> list[str]:
        goal = self.choose(
            _lines("""
                how to clean a [thing]
                how to make [food] with [food]
                how to build a [object] out of [things]
                how to keep a [animal] in the [season]
                how to cook [food] for [number] [people]
            """)
        )
        steps = [
            f"{number}. {self.paragraph('step', 1, 3)}"
            for number in range(1, self.between(8, 16) + 1)
        ]
        return [self.title(goal), *steps]

    def conversation(self) -> list[str]:
        hero, friend = self.slots["hero"], self.slots["friend"]
        turns = []
        for turn in range(self.between(14, 30)):
            kinds = ["question?" if self.chance(0.35) else "speech."]
            if self.chance(0.5):
                kinds.append("speech.")
            words = " ".join(
                self.sentence(self.fresh(_RULES[kind[:-1]]) + kind[-1]) for kind in kinds
            )
            turns.append(f"{friend if turn % 2 else hero}: {words}")
        return [self.title("{hero} talks to {friend}"), "\n".join(turns)]

    def essay(self) -> list[str]:
        self.slots["his"] = "our"
        body = self.paragraphs("thought", count=(4, 7), length=(4, 8))
        return [self.title("on [abstract] and [abstract]"), *body]

    def document(self) -> str:
        u = self.rng.random()
        # Shares of the seven kinds: stories make up most of the corpus.
        for share, kind in (
            (0.40, self.story),
            (0.52, self.report),
            (0.64, self.letter),
            (0.74, self.guide),
            (0.82, self.instructions),
            (0.91, self.conversation),
        ):
            if u < share:
                return "\n\n".join(kind())
        return "\n\n".join(self.essay())


def document(seed: int, index: int) -> str:
    """Write document number `index` of the corpus `seed`.

    Parameters
    ----------
    seed : int
        Names a corpus; any integer. Corpora of different seeds are independent.
    index : int
        Number of the document in its corpus, at least 0.

    Returns
    -------
    str
        A titled text of several paragraphs, about 600 to 4000 characters of ASCII, paragraphs
        separated by an empty line, without a final newline.

    Raises
    ------
    ValueError
        If `index` is negative.
    """
    if index < 0:
        raise ValueError(f"index must be at least 0, got {index}")
    return _Writer(seed, index).document()


def documents(seed: int, *, start: int = 0) -> Iterator[str]:
    """Yield the documents `start`, `start + 1`, … of the corpus `seed`, without end.

    Parameters
    ----------
    seed : int
        Names a corpus.
    start : int
        Number of the first document, at least 0.

    Yields
    ------
    str
        What `document` returns for the seed and that number.

    Raises
    ------
    ValueError
        If `start` is negative (on the first request).
    """
    for index in itertools.count(start):
        yield document(seed, index)


def corpus_text(max_chars: int, seed: int) -> str:
    """Join documents of the corpus `seed` and cut them at `max_chars` characters.

    Parameters
    ----------
    max_chars : int
        Exact length of the result in characters, at least 1.
    seed : int
        Names a corpus.

    Returns
    -------
    str
        Documents separated by two empty lines.

    Raises
    ------
    ValueError
        If `max_chars` is less than 1.
    """
    return _collect(documents(seed), max_chars)


def stdlib_text(max_chars: int) -> str:
    """Read prose written by people: the documentation inside the running standard library.

    The text starts with the interpreter's licence where that is installed, followed by the
    docstrings of the standard library's modules, classes and functions in alphabetical order of
    file and order of appearance. It differs between Python versions, so it serves as null text for
    tests of validity and not as training data.

    Parameters
    ----------
    max_chars : int
        Largest length of the result in characters, at least 1.

    Returns
    -------
    str
        At most `max_chars` characters; fewer only if the whole library has less.

    Raises
    ------
    ValueError
        If `max_chars` is less than 1.
    FileNotFoundError
        If this Python was installed without the sources of its standard library.
    """
    library = Path(sysconfig.get_paths()["stdlib"])
    text = _collect(_library_prose(library), max_chars)
    if not text:
        raise FileNotFoundError(f"no standard library sources under {library}")
    return text


# A docstring shorter than this is a label rather than prose.
_MIN_DOCSTRING = 120


def _library_prose(library: Path) -> Iterator[str]:
    licence = library / "LICENSE.txt"
    if licence.is_file():
        yield licence.read_text(encoding="utf-8")
    for path in sorted(library.glob("*.py")):
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                docstring = ast.get_docstring(node)
                if docstring and len(docstring) >= _MIN_DOCSTRING:
                    yield docstring


def _collect(texts: Iterator[str], max_chars: int) -> str:
    if max_chars < 1:
        raise ValueError(f"max_chars must be at least 1, got {max_chars}")
    parts: list[str] = []
    length = 0
    for text in texts:
        parts.append(text)
        length += len(text) + 3
        if length >= max_chars + 3:
            break
    return "\n\n\n".join(parts)[:max_chars]
