"""A template grammar of tiny children's stories.

A story is an opening sentence followed by one to nine more. What follows the opening is ruled by four properties,
drawn independently of the opening and of one another:

* length: the number of sentences after the opening, uniform on 1..9;
* wordiness: how often a sentence is extended by a neutral phrase in front or behind;
* mood: how often a sentence is moody, and which share of the moody sentences is cheerful rather than gloomy;
* dialogue: the share of sentences that are spoken.

A moody sentence holds one or more words of `CHEERFUL` or of `GLOOMY`, never of both; every other sentence and every
opening holds none.
"""

import random
import re
from typing import NamedTuple


def words(text: str) -> frozenset[str]:
    """Return the words of a text as a set."""
    return frozenset(text.split())


CHEERFUL = words("""
    beautiful best bright cheered cheerful cheerfully clapped cozy dance danced delight delighted excited fun funny
    giggled glad gladly grin grinned happily happy hooray hug hugged joy joyful kind laugh laughed laughing laughter
    love loved lovely lucky merrily merry party play played proud proudly rainbow sang sing smile smiled smiling song
    sunny sunshine sweet thankful treat warm wonderful
""")
"""Words that only cheerful sentences hold."""

GLOOMY = words("""
    afraid alone bad bleak broke broken chilly cold cried cry crying dark dull empty fog foggy frown frowned gloomy
    gone grey grumpy hurt lonely lost miss missed moaned mud muddy rain rainy sad sadly scared shivered sigh sighed
    sob sobbed sorry storm stormy tear tears tired trembled unhappy unlucky upset weary wept wet worried worst
""")
"""Words that only gloomy sentences hold."""


class Line(NamedTuple):
    """A sentence or an utterance with slots in braces.

    `needs` names the states of the story's thing ("unseen", "held", "lost", "broken") in which the line makes sense,
    none meaning all of them; `gives` is the thing's state afterwards, none meaning the same as before.
    """

    text: str
    needs: tuple[str, ...] = ()
    gives: str = ""


NAMES = {
    "he": ("Tim", "Ben", "Max", "Sam", "Tom", "Leo", "Finn", "Jack", "Otto", "Hugo"),
    "she": ("Mia", "Lily", "Anna", "Rosie", "Zoe", "Lucy", "Emma", "Nell", "Ruby", "Clara"),
}
PRONOUNS = {"he": {"he": "he", "him": "him", "his": "his"}, "she": {"he": "she", "him": "her", "his": "her"}}
CHILD = {"he": "boy", "she": "girl"}
ANIMALS = (
    *("fox", "rabbit", "bear", "mouse", "cat", "dog", "duck", "frog"),
    *("owl", "hedgehog", "squirrel", "turtle", "goat", "pig", "mole", "sheep"),
)
PLACES = {
    place: preposition
    for preposition, places in (
        ("in", ("forest", "garden", "meadow", "village", "park", "valley")),
        ("by", ("pond", "river", "lake", "mill")),
        ("at", ("market", "farm", "beach", "school")),
        ("on", ("hill", "island")),
    )
    for place in places
}
COLOURS = ("red", "blue", "green", "yellow", "white", "brown")
THINGS = ("kite", "ball", "boat", "drum", "lamp", "hat", "scarf", "bell", "cup", "whistle", "wagon", "flute")

# Slots that every occurrence fills anew, with no word twice in a sentence.
WORDS = {
    "size": ("little", "small", "young", "tiny", "quiet", "curious", "clever", "busy"),
    "day": ("morning", "day", "afternoon", "evening"),
    "nose": ("nose", "ears", "face", "feet", "coat", "back"),
    "toe": ("toe", "foot", "knee", "nose"),
    "tree": ("a tree", "a bench", "a bush", "the bridge", "a hedge"),
    "snail": ("a snail", "a bee", "an ant", "a butterfly", "a beetle", "a bird"),
    "bread": ("some bread", "an apple", "a pear", "some soup", "some nuts", "a carrot"),
    # cheerful
    "glad": ("happy", "glad", "joyful", "cheerful", "merry", "delighted", "proud", "excited", "thankful", "lucky"),
    "smiled": ("smiled", "laughed", "grinned", "giggled"),
    "danced": ("danced", "sang", "played", "laughed"),
    "happily": ("happily", "cheerfully", "merrily", "proudly", "gladly"),
    "lovely": ("lovely", "wonderful", "beautiful"),
    "sunny": ("lovely", "wonderful", "beautiful", "sunny", "happy", "lucky"),
    "warm": ("warm", "bright", "lovely", "beautiful"),
    "sweet": ("sweet", "warm", "wonderful", "lovely"),
    "cozy": ("cozy", "warm", "lovely"),
    "funny": ("funny", "sweet", "merry", "cheerful"),
    "smile": ("smile", "laugh", "grin"),
    "play": ("play", "dance", "sing", "laugh"),
    # gloomy
    "sad": ("sad", "unhappy", "lonely", "tired", "cold", "wet", "worried", "upset", "scared", "grumpy", "weary"),
    "cried": ("cried", "sobbed", "wept", "sighed", "moaned"),
    "shivered": ("shivered", "trembled", "frowned", "sighed", "cried"),
    "grey": ("grey", "dark", "gloomy", "dull", "bleak", "stormy"),
    "rainy": ("bad", "rainy", "stormy", "gloomy", "unlucky", "dull", "chilly", "foggy", "sad"),
    "muddy": ("muddy", "dark", "wet", "cold"),
    "cold": ("cold", "chilly", "bleak"),
    "fog": ("fog", "rain", "storm", "mud", "dark"),
    "sigh": ("sigh", "sob", "frown", "tear"),
}

OPENINGS = (
    "Once upon a time there was a {size} {kind} named {name}.",
    "Once there was a {size} {kind} named {name} who lived {at}.",
    "There was once a {kind} named {name}, and {he} was very {size}.",
    "One {day} a {size} {kind} named {name} went to the {place}.",
    "One {day} {name} the {kind} was {at}.",
    "{name} was a {size} {kind} who lived near the {place}.",
    "Long ago a {size} {kind} named {name} lived {at}.",
)

# What the hero does in neutral sentences and in the second half of long ones.
ACTIONS = (
    *("walked along the path", "looked at the sky", "picked up a small stone", "counted the trees"),
    *("crossed the bridge", "ate {bread}", "drank some water", "sat down on a log", "watched {snail}"),
    *("opened the gate", "climbed over a fence", "listened to the wind", "looked behind {tree}"),
    *("drew a circle in the sand", "picked up a yellow leaf", "took a short rest", "went around the corner"),
)
FRONTS = (
    "then",
    "soon",
    "after a while,",
    "later that day,",
    "a little later,",
    "after lunch,",
    "just then,",
    "at noon",
)
BACKS = (
    *(", and then {hero} {action}", ", and after that {hero} {action}", ", and soon {hero} {action}"),
    *(" as {snail} went past", " as the clouds drifted by", " while the wind moved the leaves"),
)
TAG_BACKS = (
    *(" and {action}", " as {snail} went past", " as the clouds drifted by", " as they walked along the path"),
    *(" and pointed to the {place}", " and looked up at the sky"),
)
TAGS = {
    "neutral": (" at last", " at once", " politely", " after a moment"),
    "cheerful": (" {happily}", " with a {smile}", " with a happy {smile}"),
    "gloomy": (" sadly", " with a {sigh}", " with a sad {sigh}"),
}

NARRATION = {
    "neutral": (
        *(Line("{S} {action}."),) * 8,
        Line("{S} met {friend} {at}."),
        Line("{S} waited for {friend} near {tree}."),
        Line("{friend} came down the path."),
        Line("{friend} showed {him} the way to the {place}."),
        Line("{S} and {friend} shared {bread}."),
        Line("{S} and {friend} talked about the {place}."),
        Line("the road to the {place} was long."),
        Line("there were many trees {at}."),
        Line("{snail} sat on {his} {toe}."),
        Line("{S} found a {thing} near {tree}.", ("unseen",), "held"),
        Line("{friend} gave {him} a {thing}.", ("unseen",), "held"),
        Line("{S} carried the {toy} to the {place}.", ("held",)),
        Line("{S} showed the {toy} to {friend}.", ("held",)),
        Line("{S} put the {toy} under {tree}.", ("held",)),
        Line("{S} looked for the {toy} near {tree}.", ("lost",)),
        Line("{S} asked {friend} about the {toy}.", ("lost", "broken")),
        Line("{S} took the {toy} to {friend}.", ("broken",)),
    ),
    "cheerful": (
        Line("{S} was very {glad}."),
        Line("{S} felt {glad} and {glad}."),
        Line("{S} {smiled} at {friend}."),
        Line("{S} {danced} in the grass."),
        Line("{S} {danced} {happily} around {tree}."),
        Line("{S} {smiled} and {danced} {at}."),
        Line("the sun was {warm} and the birds {danced}."),
        Line("there was a {warm} rainbow over the {place}."),
        Line("{S} sat in the {warm} sunshine."),
        Line("{S} gave {friend} a {sweet} hug."),
        Line("{friend} hugged {him}."),
        Line("{friend} {smiled} {happily}."),
        Line("{S} told {friend} a {funny} story."),
        Line("{S} ate a {sweet} cake with {friend}."),
        Line("{friend} was {glad} to see {him}."),
        Line("{S} heard a {funny} song {at}."),
        Line("it was a {sunny} day."),
        Line("{S} and {friend} had so much fun."),
        Line("{S} and {friend} played {at}."),
        Line("{S} jumped for joy."),
        Line("{S} laughed with delight."),
        Line("everyone {at} cheered for {him}."),
        Line("{friend} clapped and {danced}."),
        Line("there was a {sweet} party {at}."),
        Line("{S} heard laughter {at}."),
        Line("{friend} was kind and gave {him} a treat."),
        Line("{S} loved the sunny {place}."),
        Line("{S} found a {lovely} {thing}.", ("unseen",), "held"),
        Line("{friend} gave {him} a {lovely} {thing}.", ("unseen",), "held"),
        Line("{S} loved the {toy}.", ("held",)),
        Line("{S} {danced} with the {toy}.", ("held",)),
        Line("{S} found the {toy} again and {smiled}.", ("lost",), "held"),
        Line("{friend} found the {toy}, and {name} was {glad}.", ("lost",), "held"),
        Line("{friend} fixed the {toy}, and {name} was {glad}.", ("broken",), "held"),
    ),
    "gloomy": (
        Line("{S} was very {sad}."),
        Line("{S} felt {sad} and {sad}."),
        Line("{S} {cried} and looked at the ground."),
        Line("{S} {shivered} {at}."),
        Line("{S} {cried} sadly under {tree}."),
        Line("{S} sat alone near {tree}."),
        Line("{S} was {sad} and {shivered}."),
        Line("the sky was {grey} and the path was {muddy}."),
        Line("the {place} was {grey}."),
        Line("it began to rain."),
        Line("the {cold} rain fell on {his} {nose}."),
        Line("the wind was {cold}."),
        Line("a {grey} storm came over the {place}."),
        Line("there was fog {at}."),
        Line("{S} had a tear in {his} eye."),
        Line("tears ran down {his} face."),
        Line("{S} missed {his} mother."),
        Line("{S} was lost {at}."),
        Line("{S} slipped in the {muddy} mud."),
        Line("{S} hurt {his} {toe}."),
        Line("{friend} looked {sad}."),
        Line("{friend} {shivered} and {cried}."),
        Line("{friend} was {sad} and sat down."),
        Line("{S} was afraid of the {fog}."),
        Line("it was a {rainy} day."),
        Line("{his} basket was empty."),
        Line("{S} could not stop crying."),
        Line("{S} had lost a {thing}.", ("unseen",), "lost"),
        Line("{S} had a broken {thing}.", ("unseen",), "broken"),
        Line("{friend} had a broken {thing}.", ("unseen",), "broken"),
        Line("{S} missed the {thing} that was at home.", ("unseen",)),
        Line("{S} lost the {toy}.", ("held",), "lost"),
        Line("the {toy} was gone.", ("held",), "lost"),
        Line("the {toy} broke.", ("held",), "broken"),
        Line("the {toy} fell and broke, and {name} was {sad}.", ("held",), "broken"),
        Line("{S} looked for the {toy}, but it was gone.", ("lost",)),
        Line("{S} {cried} about the {toy}.", ("lost", "broken")),
    ),
}

ENDINGS = {
    "neutral": (
        Line("then {S} went home."),
        Line("at night {S} went to sleep."),
        Line("in the evening {S} went back to the {place}."),
        Line("that was the end of the day."),
    ),
    "cheerful": (
        Line("{S} went home with a {smile}."),
        Line("that night {S} slept in a {cozy} bed."),
        Line("it had been a {sunny} day."),
        Line("{S} went to bed {glad} and {glad}."),
        Line("from then on {S} was always {glad}."),
    ),
    "gloomy": (
        Line("{S} walked home alone in the rain."),
        Line("that night {S} {cried} in bed."),
        Line("it had been a {rainy} day."),
        Line("{S} went to bed {sad} and {sad}."),
        Line("{S} went home in the {fog}."),
    ),
}

UTTERANCES = {
    "neutral": (
        Line("Where are you going?"),
        Line("Can I come with you?"),
        Line("How far is it to the {place}?"),
        Line("Did you see {snail}?"),
        Line("What is in your basket?"),
        Line("I am going to the {place}."),
        Line("Hello!"),
        Line("I saw {snail} {at}."),
        Line("It is time for lunch."),
        Line("The path goes to the {place}."),
        Line("We can wait here."),
        Line("I will come back tomorrow."),
        Line("My house is near the {place}."),
        Line("Let us look behind {tree}."),
        Line("I think it is this way."),
        Line("Let us eat {bread}."),
        Line("Come with me!"),
        Line("You can hold the {toy}.", ("held",)),
        Line("Who made this {toy}?", ("held",)),
        Line("Did you see the {toy}?", ("lost",)),
        Line("Can you fix the {toy}?", ("broken",)),
    ),
    "cheerful": (
        Line("I am so {glad}!"),
        Line("I feel {glad} and {glad} today."),
        Line("What a {sunny} day!"),
        Line("This is the best day!"),
        Line("I love the {place}."),
        Line("Let us {play} and {play}!"),
        Line("Can we {play} {at}?"),
        Line("This is so much fun!"),
        Line("You are very kind."),
        Line("Hooray!"),
        Line("Hooray, this is fun!"),
        Line("I have a {sweet} treat for you."),
        Line("That was a {funny} song."),
        Line("Look at the {warm} rainbow!"),
        Line("The sunshine is so {warm}."),
        Line("Let us have a party {at}!"),
        Line("Why are you smiling?"),
        Line("Why are you laughing?"),
        Line("I love this {toy}!", ("held",)),
        Line("What a {lovely} {toy}!", ("held",)),
        Line("I am {glad} that the {toy} is here!", ("held",)),
    ),
    "gloomy": (
        Line("I am so {sad}."),
        Line("I feel {sad} and {sad} today."),
        Line("What a {rainy} day!"),
        Line("This is the worst day."),
        Line("I miss my mother."),
        Line("I am sorry."),
        Line("Please do not cry."),
        Line("Why are you crying?"),
        Line("Why are you so {sad}?"),
        Line("It is so {cold} and {grey} here."),
        Line("I am afraid of the {fog}."),
        Line("I do not like the {fog}."),
        Line("The rain is so {cold}."),
        Line("I hurt my {toe}."),
        Line("There is mud on my {nose}."),
        Line("My basket is empty."),
        Line("I think we are lost."),
        Line("I do not want to be alone."),
        Line("The {toy} is gone.", ("lost",)),
        Line("I miss the {toy}.", ("lost",)),
        Line("The {toy} is broken.", ("broken",)),
    ),
}


class Scene:
    """The hero, friend, place and thing of one story, and what has been said about them so far."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.pronoun = rng.choice(("he", "she"))
        self.name = rng.choice(NAMES[self.pronoun])
        self.kind = rng.choice((*ANIMALS, CHILD[self.pronoun]))
        friend_pronoun = rng.choice(("he", "she"))
        self.friend = rng.choice([name for name in NAMES[friend_pronoun] if name != self.name])
        self.friend_kind = rng.choice((*ANIMALS, CHILD[friend_pronoun]))
        self.place = rng.choice(tuple(PLACES))
        self.toy = rng.choice(THINGS)
        self.thing = f"{rng.choice(COLOURS)} {self.toy}"
        self.state = "unseen"
        self.friend_met = False
        self.friend_spoke = False
        self.pronoun_clear = True
        self.told: set[str] = set()
        self.done: list[str] = []

    def pick(self, lines: tuple[Line, ...]) -> Line:
        """Return a line that makes sense now and, generic actions apart, was not used before."""
        line = self.rng.choice(
            [x for x in lines if (not x.needs or self.state in x.needs) and x.text not in self.told]
        )
        if "{action}" not in line.text:
            self.told.add(line.text)
        self.state = line.gives or self.state
        return line

    def hero(self) -> str:
        """Return the hero's pronoun or, always where the pronoun could mean the friend, the hero's name."""
        return self.pronoun if self.pronoun_clear and self.rng.random() < 0.6 else self.name

    def met(self) -> str:
        """Return the friend's name, introduced at its first mention."""
        if self.friend_met:
            return self.friend
        self.friend_met = True
        his = PRONOUNS[self.pronoun]["his"]
        return self.rng.choice((f"{his} friend {self.friend}", f"a {self.friend_kind} named {self.friend}"))

    def render(self, text: str) -> str:
        """Fill the slots of one sentence, set articles and the capital letter."""
        if "{friend}" in text:
            self.pronoun_clear = False
        used: set[str] = set()

        def fill(match: re.Match[str]) -> str:
            slot = match[1]
            if slot == "S":
                return self.hero()
            if slot == "hero":
                return self.name if "{friend}" in text else self.pronoun
            if slot == "friend":
                return self.met()
            if slot == "action":
                self.done.append(self.rng.choice([action for action in ACTIONS if action not in self.done[-8:]]))
                return expand(self.done[-1])
            if slot == "at":
                return f"{PLACES[self.place]} the {self.place}"
            if slot in PRONOUNS[self.pronoun]:
                return PRONOUNS[self.pronoun][slot]
            if slot in WORDS:
                word = self.rng.choice([word for word in WORDS[slot] if word not in used])
                used.add(word)
                return word
            return getattr(self, slot)

        def expand(part: str) -> str:
            return re.sub(r"\{(\w+)\}", fill, part)

        sentence = re.sub(r"\ba (?=[aeiou])", "an ", expand(text))
        self.pronoun_clear = "{friend}" not in text
        return sentence[0].upper() + sentence[1:]

    def narrate(self, mood: str, wordiness: float, last: bool) -> str:
        """Return one narrated sentence; the last one of a story often closes the day, scenery is never extended."""
        if last and self.rng.random() < 0.6:
            return self.render(self.pick(ENDINGS[mood]).text)
        text = self.pick(NARRATION[mood]).text
        if not text.startswith(("{S}", "{friend}")):
            return self.render(text)
        front = f"{self.rng.choice(FRONTS)} " if self.rng.random() < 0.6 * wordiness else ""
        back = self.rng.choice(BACKS) if self.rng.random() < 0.7 * wordiness else ""
        return self.render(f"{front}{text[:-1]}{back}.")

    def speak(self, mood: str, wordiness: float) -> str:
        """Return one spoken sentence; the first one of a story introduces the friend as speaker or as listener."""
        utterance = self.pick(UTTERANCES[mood]).text
        verb = {"?": "asked", "!": "called", ".": "said"}[utterance[-1]]
        quote = f'"{utterance[:-1]},"' if utterance[-1] == "." else f'"{utterance}"'
        if verb == "asked" and not self.friend_met:
            self.friend_spoke = True
        elif self.rng.random() < 0.8:
            self.friend_spoke = not self.friend_spoke
        listener = "" if self.friend_spoke or self.friend_met else " to {friend}"
        tag = self.rng.choice(TAGS[mood]) if not listener and self.rng.random() < 0.4 else ""
        if self.friend_spoke:
            said = f"{verb} {{friend}}"
        elif self.pronoun_clear and self.rng.random() < 0.4:
            said = f"{{he}} {verb}"
        else:
            said = f"{verb} {{name}}"
        back = self.rng.choice(TAG_BACKS) if self.rng.random() < 0.6 * wordiness else ""
        return self.render(f"{quote} {said}{listener}{tag}{back}.")


def opening(scene: Scene) -> str:
    """Return the opening sentence of a scene."""
    return scene.render(scene.rng.choice(OPENINGS))


def prompt(rng: random.Random) -> str:
    """Return an opening sentence, after which every length, mood and dialogue share is possible."""
    return opening(Scene(rng))


def story(rng: random.Random) -> str:
    """Return a story: an opening sentence and one to nine more."""
    scene = Scene(rng)
    sentences = [opening(scene)]
    length = rng.randint(1, 9)
    wordiness = rng.random()
    moodiness = rng.random()
    cheer = rng.choice((0.0, rng.random(), 1.0))
    dialogue = rng.choice((0.0, rng.random(), rng.random(), 1.0))
    for position in range(1, length + 1):
        mood = "neutral" if rng.random() >= moodiness else "cheerful" if rng.random() < cheer else "gloomy"
        if rng.random() < dialogue:
            sentences.append(scene.speak(mood, wordiness))
        else:
            sentences.append(scene.narrate(mood, wordiness, position == length))
    return " ".join(sentences)
