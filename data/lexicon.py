"""The words of the story world: who lives there, what lies about, where things can be put.

Lists of words are written as text, as they would stand in a picture dictionary. The order of a list
is part of the world: another order gives other stories for the same (seed, index).
"""


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


def _lines(text: str) -> tuple[str, ...]:
    return tuple(line.strip() for line in text.strip().splitlines())


GIRLS = _words("""
Ada Agnes Alma Amelie Anouk Beatrix Bella Bess Birgit Bonnie Cara Cecily Clara Clementine Daisy
Delia Dora Edith Eliza Elsie Emma Esme Etta Eva Faye Fern Flora Freya Gemma Greta Gwen Hattie Hazel
Heidi Hetty Ida Imogen Ingrid Iris Isla Ivy Jenny Josie Juno Kit Lena Lily Lotte Lucy Luna Mabel
Maeve Maggie Maisie Marta Maya Mia Mina Molly Nell Nina Nora Olive Opal Pearl Petra Pia Polly Poppy
Rita Romy Rosa Ruby Sadie Sally Selma Signe Sofia Stella Susie Tess Thea Tilda Tilly Una Vera Viola
Wanda Wilma Winnie Yara Zara Zelda Zoe
""")
BOYS = _words("""
Abel Albert Alfie Amos Anton Archie Arlo Arthur Asher Barney Basil Ben Bertie Bruno Caleb Casper
Cedric Clem Colin Cyril Dan Darcy Dexter Digby Edgar Edwin Eli Elmer Emil Ernest Ezra Felix Finn
Fergus Floyd Francis Fred George Gilbert Gus Hamish Harry Harvey Henry Herbert Hugo Humphrey Ike
Ivan Jack Jago Jasper Jem Joel Jonas Karl Kaspar Lars Leo Lewis Linus Louis Luke Magnus Marlow Max
Milo Monty Ned Nico Noah Olaf Oscar Otis Otto Owen Percy Piet Quentin Ralph Remy Rex Robin Rory
Rufus Rupert Sam Seb Silas Simon Stan Sven Ted Theo Toby Tom Uli Victor Walter Wilbur Will Yorick
""")
CREATURES = _words("""
hare badger hedgehog mouse fox otter squirrel rabbit mole bear frog duck goose owl beaver stoat
weasel dormouse toad piglet lamb kitten puppy donkey pony sparrow hen cat dog goat raccoon marten
""")

# What a place is called, by setting; the last word is its noun, and no noun is there twice.
SETTINGS: dict[str, tuple[str, ...]] = {
    "farm": _lines("""
        in the barn
        in the stable
        under the haystack
        behind the henhouse
        in the orchard
        beside the well
        in the cellar
        in the attic
        beside the pond
        under the cart"""),
    "harbour": _lines("""
        in the boathouse
        on the pier
        in the lighthouse
        under the nets
        behind the fishmonger
        on the jetty
        in the rowboat
        beside the anchor
        in the tavern
        under the bridge"""),
    "forest": _lines("""
        in the hollow
        under the oak
        beside the brook
        in the cave
        behind the waterfall
        in the clearing
        under the ferns
        beside the beehive
        in the cabin
        on the ridge"""),
    "town": _lines("""
        in the bakery
        in the library
        under the clock
        behind the school
        in the market
        beside the fountain
        in the museum
        on the balcony
        in the station
        behind the theatre"""),
    "castle": _lines("""
        in the tower
        in the kitchen
        under the throne
        in the dungeon
        behind the tapestry
        in the armoury
        beside the moat
        in the chapel
        under the drawbridge
        on the battlements"""),
    "mountain": _lines("""
        in the hut
        behind the boulder
        in the mine
        beside the glacier
        under the larch
        in the tunnel
        on the ledge
        in the dairy
        beside the spring
        in the chalet"""),
    "island": _lines("""
        in the lagoon
        under the palm
        in the shipwreck
        on the beach
        in the hammock
        behind the dunes
        beside the campfire
        in the treehouse
        under the canoe
        on the cliff"""),
    "village": _lines("""
        in the mill
        in the forge
        behind the church
        in the greenhouse
        under the hedge
        beside the gate
        in the shed
        on the porch
        in the pantry
        behind the inn"""),
    "manor": _lines("""
        in the parlour
        in the nursery
        under the staircase
        behind the curtain
        in the laundry
        in the conservatory
        beside the fireplace
        in the wardrobe
        under the piano
        on the terrace"""),
}
LIVES = {
    "farm": "on a farm",
    "harbour": "in a harbour town",
    "forest": "at the edge of a forest",
    "town": "in a busy little town",
    "castle": "in a crooked castle",
    "mountain": "high up on a mountain",
    "island": "on a small island",
    "village": "in a quiet village",
    "manor": "in an old manor",
}

COLOURS = _words("""
red blue green yellow purple orange pink brown white black grey silver golden scarlet violet
crimson turquoise
""")
TOYS = _words("""
kite drum ball boat doll train whistle puppet lantern marble scarf hat bell flute trumpet top hoop
wagon sled umbrella basket cup teapot spoon bucket box chest purse key ring button ribbon feather
blanket cushion mitten boot lamp candle map book diary letter card clock watch compass telescope
mirror comb brush paintbrush violin fiddle banjo tambourine rattle harmonica horseshoe necklace
bracelet brooch crown cape mask shield sword bow slingshot yoyo rocket robot rope net ladle kettle
jug bowl plate vase bottle pouch satchel suitcase thimble pincushion shawl apron glove slipper cap
""")
TREATS = _words("""
pancake pie tart bun scone muffin biscuit cake cookie waffle dumpling sandwich pudding apple pear
plum peach cherry fig apricot melon orange lemon pretzel brioche toffee lollipop sausage carrot
turnip pumpkin radish cucumber tomato omelette pasty flapjack crumpet strudel doughnut macaroon
""")

# Lists that prose draws from, one by one, by the name of the list.
LISTS: dict[str, tuple[str, ...]] = {
    "colour": COLOURS,
    "toy": TOYS,
    "treat": TREATS,
    "food": _words("""
        bread butter cheese honey jam soup porridge milk cocoa lemonade cider tea custard cream
        mustard rice cabbage marmalade syrup cinnamon ginger pepper gravy stew broth salad celery
        spinach toast bacon ham fish chicken chocolate sugar salt yoghurt spaghetti garlic parsley
        mint vanilla fudge nougat liquorice treacle jelly barley pastry popcorn rhubarb trout
        salmon mutton buttermilk sauerkraut horseradish peppermint nutmeg saffron marzipan"""),
    "animal": _words("""
        cow horse sheep goat pig donkey mule calf foal lamb cat kitten dog puppy rabbit hare hamster
        mouse rat fox badger hedgehog squirrel mole otter beaver deer stag fawn wolf bear boar lynx
        pony ox camel monkey tortoise snail toad frog newt lizard bat seal walrus hen rooster goose
        duck swan turkey peacock"""),
    "bird": _words("""
        robin sparrow wren finch thrush blackbird starling swallow swift crow rook raven magpie jay
        jackdaw cuckoo pigeon dove gull heron stork crane owl hawk falcon kestrel eagle buzzard
        pheasant partridge quail lark nightingale woodpecker kingfisher puffin pelican
        goldfinch"""),
    "insect": _words("""
        ant bee wasp beetle ladybird moth butterfly dragonfly grasshopper cricket spider gnat
        bumblebee caterpillar earwig firefly"""),
    "flower": _words("""
        rose tulip daisy lily poppy violet pansy primrose bluebell buttercup snowdrop crocus
        daffodil marigold sunflower foxglove lavender lilac jasmine carnation iris orchid dandelion
        clover heather thistle geranium peony hyacinth honeysuckle"""),
    "tree": _words("""
        oak elm ash beech birch maple willow poplar pine fir spruce cedar yew holly hazel chestnut
        walnut alder aspen rowan hawthorn sycamore"""),
    "tool": _words("""
        hammer saw spade shovel rake hoe broom mop ladder wheelbarrow pitchfork axe chisel mallet
        wrench screwdriver needle sickle sieve funnel rolling-pin ruler pencil crayon scythe
        crowbar trowel anvil spanner paintbrush"""),
    "job": _words("""
        baker miller smith cobbler tailor weaver potter carpenter mason painter gardener shepherd
        farmer fisherman sailor captain postman teacher doctor nurse clerk judge mayor soldier
        guard knight cook butcher grocer barber brewer beekeeper woodcutter hunter ferryman
        watchmaker bookseller printer chemist librarian conductor musician fiddler juggler
        clown poet beggar pedlar chimney-sweep plumber thatcher saddler glazier"""),
    "kin": _words("mother father grandmother grandfather aunt uncle sister brother cousin"),
    "cloth": _words("""
        coat jacket shirt waistcoat stocking sock shoe sandal boot cloak bonnet collar belt sleeve
        nightgown jersey cardigan pinafore raincoat nightcap dressing-gown"""),
    "game": _words("""
        chess draughts dominoes marbles hopscotch tag leapfrog skittles cards charades dice bowls
        croquet rounders blindfold tiddlywinks"""),
    "subject": _words("""
        whales volcanoes pirates dragons comets earthquakes bees bridges giants ghosts submarines
        kings queens glaciers deserts dinosaurs windmills rainbows tigers fossils balloons magnets
        castles robbers icebergs mermaids penguins elephants steam-engines planets"""),
    "adverb": _words("""
        softly quietly gently slowly calmly gravely cheerfully politely proudly shyly patiently
        carefully thoughtfully solemnly dreamily merrily firmly kindly briskly earnestly
        curiously drowsily tenderly hopefully"""),
    "loudly": _words("""
        loudly crossly suddenly eagerly excitedly fiercely grandly hotly indignantly impatiently
        triumphantly sharply breathlessly gleefully stubbornly"""),
    "glad": _words("""
        glad happy pleased delighted cheerful merry joyful proud thankful content relieved thrilled
        overjoyed grateful"""),
    "sad": _words("""
        sad gloomy miserable unhappy sorry lonely worried anxious downcast disappointed upset
        homesick ashamed uneasy"""),
    "nice": _words("""
        fine splendid wonderful lovely marvellous excellent remarkable beautiful magnificent
        handsome charming perfect glorious superb grand"""),
    "small": _words("small tiny little young slender skinny round plump short stout"),
    "nature": _words("""
        clever brave shy stubborn cheerful curious gentle careful dreamy patient lively honest
        restless kind bold quick merry sensible untidy forgetful talkative serious
        generous thoughtful polite"""),
    "number": _words("two three four five six seven eight nine ten eleven twelve"),
    "material": _words("""
        wood tin paper brass copper glass leather wool cotton silk velvet straw clay wax stone iron
        porcelain ivory felt linen"""),
    "sound": _words("""
        creak rustle rattle thump squeak clatter whisper murmur rumble jingle crackle splash hum
        buzz groan thud clank tap snore howl hiss"""),
    "says": _words("""
        said said said said replied answered remarked declared added explained observed announced
        muttered murmured"""),
    "asks": _words("asked asked asked asked wondered inquired whispered demanded"),
    "very": _words("very very quite rather truly remarkably terribly awfully"),
    "soon": _lines("""
        at once
        straight away
        immediately
        without delay
        in a flash
        before long"""),
    "day": _words("Monday Tuesday Wednesday Thursday Friday Saturday Sunday"),
    "month": _words("""
        January February March April May June July August September October November December"""),
    "instrument": _words("""
        accordion cello clarinet harp piano organ guitar mandolin bassoon oboe bagpipe cornet lute
        xylophone recorder"""),
    "vehicle": _words("carriage bicycle tractor barge ferry balloon tram sleigh steamer caravan"),
    "shape": _words("""
        camel whale ship dragon cauliflower snail teapot castle giant pillow mountain slipper
        crocodile feather elephant ladder bearded-king fish hat spoon"""),
    "dish": _words("""
        soup stew broth porridge pudding pie casserole omelette chowder goulash risotto trifle
        lasagne hotpot"""),
    "time": _words("morning afternoon evening"),
    "metal": _words("copper silver brass tin iron pewter bronze"),
}

# How a word of a list may be described, two times out of three.
DESCRIBED: dict[str, tuple[str, ...]] = {
    "animal": _words("""
        sleepy hungry spotted grumpy friendly fat thin woolly old young lazy curious muddy lonely
        limping proud nervous greedy snow-white clumsy sulky shaggy dignified thirsty wet
        fluffy"""),
    "bird": _words("""
        sleepy hungry speckled grumpy fat thin old young lonely proud greedy ruffled noisy vain
        tame cheeky solitary feathery tufted long-tailed restless"""),
    "insect": _words("""
        tiny green striped shiny brown hurried lost dusty brave hairy golden fat invisible elderly
        drowsy polite well-dressed"""),
    "job": _words("""
        old young tired friendly stout jolly bearded sleepy deaf famous lazy strict absent-minded
        red-haired freckled bald wealthy poor retired suspicious hard-working near-sighted"""),
    "tool": _words("""
        rusty heavy borrowed broken blunt sharp wooden brand-new bent long battered useful
        second-hand dusty enormous"""),
    "cloth": _words("""
        woollen striped patched checked knitted leather dirty clean silk flannel tattered borrowed
        embroidered moth-eaten spotted brand-new much-too-big velvet"""),
    "treat": _words("""
        warm fresh sticky sweet small large sugared stale home-made squashed salted crisp juicy
        half-eaten spiced delicious"""),
    "food": _words("""
        hot cold fresh sweet warm thick sour burnt salty plain left-over lukewarm creamy spicy
        home-made greasy pink"""),
    "flower": _words("yellow white wild pale faded early late lonely purple dewy scented"),
    "tree": _words("old tall crooked hollow mighty bent lonely ancient leafy bare mossy"),
    "vehicle": _words("noisy slow painted rusty overloaded elegant creaking yellow royal"),
    "sound": _words("loud soft sudden strange faint dreadful long hollow familiar short dull"),
    "shape": _words("huge sleeping broken upside-down flying dancing furious melting sitting"),
    "instrument": _words("battered old borrowed squeaky silver enormous out-of-tune"),
}
