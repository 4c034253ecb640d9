"""The words of target domains, and what becomes of them in a caption by `captioning.rules`.

A word in capitals in a rule is a class of words: one of the domain's, or one that all share.
"""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Rule:
    """One step: what is replaced, where, and by what.

    Patterns are written in words. A word in capitals is a class of words (`_PLURAL`: only their
    plurals, `_OWN`: their possessives), `a|b` is either, and `?`, `*`, `+` count as in a regular
    expression.

    Attributes:
        what: the words that are replaced.
        becomes: what stands there afterwards.
        after: what must stand in front; it stays.
        before: what must follow; it stays.
    """

    what: str
    becomes: str = ""
    after: str = ""
    before: str = ""


@dataclass(frozen=True)
class Grammar:
    """The tables of one domain.

    Attributes:
        words: class -> words and phrases. `~` is a space, a hyphen or nothing; plurals and
            possessives are understood.
        style: the classes of `words` of which nothing may be left.
        run: those of them of which several in a row are one expression, `RUN` in patterns.
        content: phrases that are content although they hold a style word.
        rules: applied in this order, all of them again until nothing changes.
    """

    words: Mapping[str, str]
    style: tuple[str, ...]
    run: tuple[str, ...]
    content: str
    rules: tuple[Rule, ...]


# Watercolors and comics are described with the same words.
ART = Grammar(
    words={
        "WORK": """painting|drawing|illustration|sketch|portrait|depiction|artwork|art~work|
            art~print|cartoon|comic|comic~strip|comic~book|graphic~novel|caricature|doodle|poster|
            print|canvas|rendering|render|aquarelle|lithograph|etching""",
        "MEDIUM": """water~color|water~colour|water~coloring|gouache|manga|anime|cartoon|comic|
            art|fine~art|pop~art|line~art|clip~art|portraiture""",
        "MADE": """painted|drawn|illustrated|sketched|depicted|printed|rendered|hand~painted|
            hand~drawn|cartoonish|cartoony|artistic|painterly|depict|depicts|depicting|illustrating|
            water~colored|water~coloured""",
        "DOING": "painting|drawing|sketching",
        "MATERIAL": "paint|ink",
        "PERSON": "artist|painter|illustrator|cartoonist",
        "BOOK": "sketch~book|comic~book",
        "TOOL": "brush|paint~brush",
        "STROKE": "brush~stroke",
        "STAND": "easel",
        "MANNER": "in~the~style~of",
        # What may stand around a style word and then belongs to it.
        "TAIL": "style|styled|effect|technique|form|format|medium|inspired|themed|like",
        "QUALIFIER": """black~and~white|digital|oil|acrylic|pencil|pen|charcoal|chalk|crayon|pastel|
            colored|coloured|color|colour|colorful|vibrant|bright|abstract|beautiful|simple|small|
            large|big|little|old|vintage|modern|contemporary|realistic|detailed|different|various|
            original|quick|loose|rough|framed|flat|vector|3d|pixel|full~length|close~up|
            minimalist|stylized|black|white|artist's|nice|cute|japanese|chinese|impressionist""",
        "SERIES": "series~of|set~of|collection~of|pair~of|couple~of|group~of|variety~of",
    },
    style=("WORK", "MEDIUM", "MADE", "DOING", "MATERIAL", "PERSON", "BOOK", "TOOL", "STROKE")
    + ("STAND", "MANNER"),
    run=("WORK", "MEDIUM", "MADE"),
    content="martial~art|state~of~the~art|horse~drawn|poster~bed",
    rules=(
        # in the style of van gogh
        Rule("MADE* in DET? QUALIFIER* style of DET? NAME+"),
        # illustration [by julia kim], shiba inu [by katie-kitty-art]
        Rule("by NAME+", after="STYLE", before="END|of"),
        Rule("by NAME* STYLE", before="END"),
        # [are shown in watercolor], [in a comic book style], two birds [in a painting]
        Rule("shown* BE? shown* MADE* in|as|from DET QUALIFIER* RUN TAIL?", before="END|LINK"),
        Rule("shown* BE? shown* MADE* in QUALIFIER* RUN TAIL", before="END|LINK"),
        Rule("shown|done|made|BE* MADE* in|as|with|using|of|from MEDIUM TAIL?", before="END|LINK"),
        Rule("shown|done|made|BE* MADE* on DET? QUALIFIER* canvas|easel", before="END|LINK|of"),
        # [three black and white drawings of] a dog, this is [a poster with] birds
        Rule("DET? LEAD* RUN TAIL? NEUTRAL_WORK? SHOWS", after="FRAME"),
        Rule("DET LEAD* RUN TAIL? NEUTRAL_WORK? SHOWS", after="BE"),
        # [a watercolor painting]
        Rule("DET? LEAD* RUN TAIL? NEUTRAL_WORK?", after="FRAME", before="END"),
        # a dog, [watercolor] on paper
        Rule("MEDIUM", after="FRAME", before="LINK"),
        # a person [drawing] a portrait
        Rule("BE? DOING", "with", after="NOUN|PERSON", before="DET|THING|NEUTRAL_WORK"),
        # a [brightly painted] dog, a [cartoon] cat, [paint] splatters
        Rule("ADVERB? PERSON? RUN TAIL?", before="THING"),
        Rule("MATERIAL|TOOL", before="THING"),
        # hummingbird [watercolor painting], a man [painting] in a field, a face [painted] on it
        Rule("BE? RUN TAIL?", after="NOUN|PERSON", before="END|LINK"),
        # What is left names things of the scene: a [watercolor] painting hanging on a wall
        Rule("WORK|MEDIUM|MADE", before="WORK|MEDIUM"),
        Rule("BOOK", "book"),
        Rule("STROKE", "stroke"),
        Rule("TOOL", "tool"),
        Rule("PERSON_OWN", "person's"),
        Rule("PERSON_PLURAL", "people"),
        Rule("PERSON", "person"),
        Rule("of MATERIAL", after="splash|splashes|splatter|splatters", before="END|LINK"),
        Rule("colorful|coloured|colored MATERIAL", "colors"),
        Rule("MATERIAL", "color"),
        Rule("STAND", "stand"),
        Rule("MADE"),
        Rule("WORK_PLURAL|MEDIUM_PLURAL", "pictures"),
        Rule("WORK", "picture"),
        Rule("MEDIUM", "picture", after="DET|QUALIFIER"),
        Rule("MEDIUM", "pictures"),
        Rule("STYLE"),
    ),
)

NIGHT = Grammar(
    words={
        "NIGHT": """night|night~time|nightfall|evening|dusk|twilight|midnight|darkness|dark|
            tonight|low~light|nightscape""",
        "DARK": """dark|darker|darkened|dim|dimly~lit|dimly|poorly~lit|nocturnal|moonlit|unlit|
            pitch~black""",
        "TAIL": "time",
        "WHEN": "at|by|in|during|into|through|after|before|under|on|of",
        "QUALIFIER": """wet|cold|empty|quiet|busy|long|narrow|small|large|old|big|black|white|red|
            yellow|blue|green|rainy|snowy|foggy|misty|stormy|windy|cloudy""",
        "WEATHER": "rainy|snowy|foggy|misty|stormy|windy|cloudy",
        # What only qualifies a night, and goes with it.
        "LATE": "late|early|starry|cold|warm|clear|moonless|summer|winter|middle~of|very|the",
        "SERIES": "series~of",
    },
    style=("NIGHT", "DARK"),
    run=("NIGHT", "DARK"),
    content="""night~club|night~stand|night~gown|evening~gown|evening~dress|dark~haired|
        dark~skinned|dark~colored|dark~coloured|dark~hair|dark~skin|dark~eye|dark~blue|dark~green|
        dark~red|dark~brown|dark~grey|dark~gray|dark~purple""",
    rules=(
        # on a rainy night: the weather is content
        Rule("NIGHT", "weather", after="WEATHER", before="END|LINK"),
        Rule("on|at|during DET?", "in", before="WEATHER weather"),
        Rule("DET", before="WEATHER weather"),
        # lit up [late at night], a photo [taken in the dark], [in the middle of the night]
        Rule("taken|shot? late? WHEN DET? LATE* RUN", before="END|LINK"),
        # [night in] the city, [a dark night with] cars
        Rule("DET? LATE* RUN TAIL? in|on|at|of|over|with", after="FRAME"),
        Rule("DET? LATE* RUN", after="FRAME", before="END"),
        # the street [is dark], a street [that is dark]
        Rule("and|while|because? it BE LATE* RUN outside?", before="END|LINK"),
        Rule("that|which? BE LATE* RUN", before="END|LINK"),
        # a [dark and] rainy street, a cold [and dark] street, a [dark] street
        Rule("RUN and", after="DET", before="QUALIFIER"),
        Rule("and RUN", after="QUALIFIER", before="NOUN"),
        Rule("ADVERB? late? RUN TAIL?", before="THING|NEUTRAL_WORK"),
        Rule("STYLE"),
    ),
)
