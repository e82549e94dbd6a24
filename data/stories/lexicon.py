"""The words of the story world: who lives there, what lies about, where things can be put.

Lists of words are written as text, as they would stand in a picture dictionary. The order of a list
is part of the world: another order gives other stories for the same (seed, index).
"""


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


def _lines(text: str) -> tuple[str, ...]:
    return tuple(line.strip() for line in text.strip().splitlines())


GIRLS = _words("""
Ada Anouk Bella Cara Clara Daisy Edith Emma Esme Flora Freya Greta Hattie Ida Ingrid Iris Ivy Josie
Lena Lucy Maisie Maya Mia Molly Nell Nora Olive Petra Polly Rosa Ruby Tilda Vera Zoe
""")
BOYS = _words("""
Abel Arlo Asher Ben Bruno Casper Dan Edgar Emil Felix Finn Fred George Gus Hugo Jack Jonas Karl Leo
Linus Magnus Max Milo Ned Noah Oscar Otto Piet Rufus Sam Silas Theo Toby Will
""")
CREATURES = _words("""
hare badger hedgehog mouse fox otter squirrel rabbit mole bear frog duck goose owl beaver stoat
weasel dormouse toad piglet lamb donkey pony sparrow hen raccoon marten shrew
""")

# What a place is called, by setting; the last word is its noun, and no noun is there twice.
SETTINGS: dict[str, tuple[str, ...]] = {
    "farm": _lines("""
        in the barn
        in the stable
        under the haystack
        behind the henhouse
        in the orchard
        beside the pump
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
        under the gangway"""),
    "forest": _lines("""
        in the hollow
        under the oak
        beside the brook
        in the cave
        behind the waterfall
        in the clearing
        under the ferns
        beside the anthill
        in the cabin
        on the ridge"""),
    "town": _lines("""
        in the bakery
        in the library
        under the steps
        behind the schoolhouse
        in the arcade
        beside the fountain
        in the museum
        on the balcony
        in the tollhouse
        behind the theatre"""),
    "castle": _lines("""
        in the turret
        in the scullery
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
        in the quarry
        beside the glacier
        under the larch
        in the tunnel
        on the ledge
        in the dairy
        beside the cairn
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
        in the windmill
        in the forge
        behind the church
        in the greenhouse
        under the brambles
        beside the signpost
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

# Who may live there, by setting: a story has four neighbours.
NEIGHBOURS: dict[str, tuple[str, ...]] = {
    "farm": _words("farmer dairymaid shepherd miller blacksmith ploughman beekeeper thatcher vet"),
    "harbour": _words("sailor fisherman captain ropemaker innkeeper pilot diver sailmaker cook"),
    "forest": _words(
        "woodcutter hunter charcoal-burner beekeeper hermit ranger pedlar basketmaker"
    ),
    "town": _words(
        "baker cobbler postman teacher tailor barber watchmaker bookseller mayor lamplighter"
    ),
    "castle": _words(
        "cook guard jester knight gardener page falconer armourer librarian chambermaid"
    ),
    "mountain": _words("goatherd guide cheesemaker miner carver hermit innkeeper postman doctor"),
    "island": _words("sailor potter captain gardener ferryman fisherman painter castaway cook"),
    "village": _words("miller blacksmith baker carpenter innkeeper teacher cobbler doctor postman"),
    "manor": _words(
        "cook butler gardener governess coachman chambermaid piano-tuner gamekeeper footman"
    ),
}

# What the neighbours are like.
MANNERS = _words("old young tall stout cheerful grumpy bearded deaf freckled bald sleepy kind")

COLOURS = _words("""
red blue green yellow purple orange pink brown white black grey silver golden scarlet violet
crimson turquoise
""")
TOYS = _words("""
kite drum ball boat doll train whistle puppet lantern marble scarf hat flute trumpet top hoop wagon
sled umbrella basket teapot spoon box purse key button ribbon feather blanket cushion mitten lamp
book diary watch compass telescope mirror paintbrush violin fiddle banjo tambourine rattle
harmonica horseshoe necklace bracelet brooch crown cape mask shield bow slingshot yoyo rocket robot
kettle jug bottle satchel suitcase thimble shawl glove slipper cap pinwheel spyglass scooter
paintbox hobby-horse jewel pebble seashell vase clock cup
""")
TREATS = _words("""
pancake pie tart bun scone muffin biscuit cake cookie waffle dumpling pudding pretzel pasty crumpet
doughnut meringue bagel croissant eclair
""")
# Passwords, and names for cats and boats: words that nothing else in the world is called.
SECRETS = _words("""
bumble pumpernickel marmaduke whirligig moonbeam tumbleweed cobweb pepperpot gingersnap rumpus
hopscotch tiddlywink catkin hubbub willow-wisp pippin quicksilver stardust humbug periwinkle
thistledown skylark candlewick bluebottle harlequin zigzag
""")

# Lists that prose draws from, one by one, by the name of the list.
LISTS: dict[str, tuple[str, ...]] = {
    "colour": COLOURS,
    "toy": TOYS,
    "treat": TREATS,
    "number": _words("two three four five six seven eight nine ten eleven twelve"),
    "food": _words("""
        bread butter cheese honey jam soup porridge cream mustard rice cabbage marmalade syrup
        ginger pepper gravy stew broth celery spinach toast bacon ham fish chicken chocolate sugar
        salt yoghurt spaghetti garlic parsley vanilla fudge nougat liquorice treacle jelly barley
        popcorn rhubarb trout mutton sauerkraut horseradish marzipan lentils mushrooms raisins
        walnuts onions potatoes beetroot"""),
    "drink": _words("""
        milk cocoa lemonade cider tea water buttermilk elderflower-juice plum-juice
        cherry-juice ginger-beer broth mint-tea"""),
    "meal": _lines("""
        bread and butter
        cheese on toast
        cold potatoes with salt
        porridge with honey
        soup with barley in it
        fried mushrooms
        rice with raisins
        onions and gravy
        beans and bacon
        fish and parsley
        hot milk and bread
        stew from the day before
        boiled eggs
        noodles with butter
        toast and marmalade
        lentils with garlic
        cabbage with caraway
        ham and mustard
        a slice of cold pudding
        spinach with an egg on top
        beetroot with cream
        cheese with walnuts
        sardines on bread
        rhubarb with custard
        leek soup
        spaghetti without a fork"""),
    "animal": _words("""
        cow horse sheep goat pig donkey mule calf foal lamb cat kitten dog puppy rabbit hare
        mouse fox badger hedgehog squirrel mole otter deer stag fawn ox pony tortoise snail toad
        frog newt lizard bat hen rooster goose duck swan turkey peacock"""),
    "pet": _words("cow sheep goat pig donkey calf lamb hen goose duck pony rabbit turkey mule"),
    "bird": _words("""
        robin sparrow wren finch thrush blackbird starling swallow swift crow rook raven magpie jay
        jackdaw cuckoo pigeon dove gull heron stork crane owl hawk falcon kestrel buzzard
        pheasant partridge quail lark nightingale woodpecker kingfisher goldfinch"""),
    "insect": _words("""
        ant bee wasp beetle ladybird moth butterfly dragonfly grasshopper cricket spider gnat
        bumblebee caterpillar earwig firefly"""),
    "flower": _words("""
        rose tulip daisy lily poppy pansy primrose bluebell buttercup snowdrop crocus
        daffodil marigold sunflower foxglove lavender lilac carnation iris orchid dandelion
        clover thistle geranium peony hyacinth honeysuckle cornflower"""),
    "tree": _words("""
        elm ash beech birch maple willow poplar pine fir spruce cedar yew holly hazel chestnut
        walnut alder aspen rowan hawthorn sycamore"""),
    "tool": _words("""
        hammer saw spade shovel rake hoe broom mop ladder wheelbarrow pitchfork axe chisel mallet
        wrench screwdriver sickle sieve funnel rolling-pin ruler trowel crowbar spanner
        bucket"""),
    "kin": _words("mother father grandmother grandfather aunt uncle"),
    "cloth": _words("""
        coat jacket shirt waistcoat stocking sock shoe sandal boot cloak bonnet collar belt
        nightgown jersey cardigan pinafore raincoat nightcap apron"""),
    "game": _words("""
        chess draughts dominoes marbles tag leapfrog skittles charades bowls croquet rounders
        hide-and-seek"""),
    "subject": _words("""
        whales volcanoes pirates dragons comets earthquakes bees bridges giants ghosts submarines
        kings queens glaciers deserts dinosaurs windmills rainbows tigers fossils balloons magnets
        castles robbers icebergs mermaids penguins elephants steam-engines planets"""),
    "trade": _words("""
        baker miller smith cobbler tailor weaver potter carpenter mason painter gardener shepherd
        sailor captain postman teacher doctor judge soldier knight butcher barber beekeeper
        watchmaker printer chemist librarian conductor fiddler juggler clown poet plumber
        lighthouse-keeper acrobat detective explorer"""),
    "glad": _words("glad happy pleased delighted cheerful proud content thankful relieved"),
    "sad": _words("sad gloomy miserable unhappy lonely worried downcast disappointed"),
    "nice": _words("fine splendid wonderful lovely marvellous handsome beautiful"),
    "small": _words(
        "small small little little young tall cheerful quiet barefoot long-legged round"
    ),
    "nature": _words("""
        clever brave shy stubborn curious gentle careful dreamy patient lively kind quick sensible
        untidy forgetful talkative serious generous thoughtful polite"""),
    "material": _words("wood tin paper copper leather wool cotton silk velvet straw clay felt"),
    "sound": _words("""
        creak rustle rattle thump squeak clatter murmur rumble jingle crackle splash hum buzz groan
        thud clank tap snore hiss"""),
    "says": _words("said said said said said remarked declared announced"),
    "replies": _words("said said said answered replied"),
    "asks": _words("asked asked asked asked wondered inquired"),
    "softly": _words("""
        softly quietly gently slowly calmly gravely cheerfully proudly shyly firmly thoughtfully
        solemnly hopefully kindly wisely drily carefully briskly earnestly patiently brightly
        innocently dreamily"""),
    "politely": _words("softly quietly shyly hopefully politely anxiously eagerly gently"),
    "very": _words("very very quite rather truly remarkably"),
    "some": _lines("""
        a few
        several
        half a dozen
        a dozen
        twenty
        a hundred
        a great many"""),
    "soon": _lines("""
        at once
        straight away
        immediately
        without delay
        in a flash"""),
    "then": _lines("""
        a little later
        soon after that
        when that was done
        on the way home
        before dinner
        after dinner
        the next morning
        the same evening
        the day after
        when the dishes were dried
        at the end of the week
        early next day
        just after breakfast
        towards evening
        an hour later
        that afternoon
        when the sun was high
        before the dew was dry
        while the kettle was boiling
        not long afterwards
        as soon as the rain had stopped
        when nobody was looking
        in the middle of the week
        after a good night's sleep"""),
    "while": _lines("""
        for a whole minute
        until the kettle sang
        until their feet went to sleep
        for as long as a cat washes
        until it was time to eat
        without a word
        for half an hour
        until the light began to go
        longer than was polite
        until somebody sneezed
        for the rest of the day
        as long as the sun was out
        until the shadows were long
        and forgot the time
        until their noses were cold
        and quite enjoyed it"""),
    "day": _words("Monday Tuesday Wednesday Thursday Friday Saturday Sunday"),
    "month": _words("""
        January February March April May June July August September October November December"""),
    "instrument": _words("""
        accordion cello clarinet harp piano guitar mandolin bassoon oboe bagpipe cornet lute
        xylophone recorder tuba"""),
    "vehicle": _words("cart wagon wheelbarrow barrow handcart coach carriage sledge"),
    "shape": _words("""
        camel whale ship dragon cauliflower snail teapot castle giant pillow mountain slipper
        crocodile feather elephant ladder fish hat spoon bathtub walrus rabbit tortoise"""),
    "dish": _words("soup stew broth porridge casserole omelette chowder goulash risotto hotpot"),
    "time": _words("morning afternoon evening"),
    "metal": _words("copper brass tin iron pewter bronze"),
    "chore": _lines("""
        sweeping the step
        mending a fence
        peeling potatoes
        hanging out the washing
        cleaning the windows
        chopping firewood
        polishing a kettle
        shelling peas
        sharpening a scythe
        darning a stocking
        oiling a hinge
        painting a door
        carrying water
        stacking logs
        beating a carpet
        picking caterpillars off the cabbages
        sewing on a button
        plaiting onions
        airing the blankets
        patching a roof
        digging for worms
        counting jars of jam
        whitewashing a wall
        untangling a ball of string
        weighing out flour
        scrubbing a table
        setting a mousetrap
        filling a lamp
        grooming a pony
        mending a chair
        raking leaves
        unblocking a drain
        plucking a goose
        writing labels
        stirring a pot of glue
        looking for a lost spectacle case
        tying up the beans
        winding wool
        nailing down a plank
        pumping up a football"""),
    "errand": _lines("""
        to fetch a jug of water
        to post a letter
        to buy a reel of thread
        to borrow a cup of sugar
        to return a ladder
        to ask for a recipe
        to bring in the washing
        to feed the rabbits
        to fetch a loaf of bread
        to pick some parsley
        to ask what time it was
        to deliver a dozen eggs
        to collect a pair of boots
        to look for mushrooms
        to gather kindling
        to buy a stamp
        to fetch a pound of nails
        to take an aunt her spectacles
        to have a knife sharpened
        to swap a jar of jam
        to ask after a cold
        to bring back an umbrella
        to fill a can with milk
        to buy a candle
        to see whether the plums were ripe
        to have a tooth looked at
        to water somebody's beans
        to carry a message
        to hear the news
        to fetch a bag of feathers"""),
    "load": _lines("""
        a sack of flour
        a basket of eggs
        a bundle of firewood
        a crate of hens
        a churn of milk
        a tray of glasses
        a pile of plates
        a grandfather clock
        a feather bed
        a box of nails
        a barrel of herrings
        a cheese as big as a wheel
        a stack of hatboxes
        a double bass
        a rolled-up carpet
        a tub of washing
        a bathtub
        a cage with a parrot in it
        a pot of soup
        a bag of chestnuts
        a weathercock
        a beehive
        a stuffed pike
        an armchair
        a heap of pillows
        a hive of very cross bees
        a tower of flowerpots
        a suit of armour
        a bunch of balloons
        a sewing machine"""),
    "trifle": _lines("""
        a bent nail
        a snail shell
        a button with no holes
        half a comb
        a rusty key
        a bottle with no message
        a marble
        an acorn with a hat
        a doll's shoe
        a cork
        a foreign coin
        a feather
        a pencil stub
        a wishbone
        a piece of string
        a stone shaped like a heart
        a fish hook
        a playing card
        an old ticket
        a thimble
        a pine cone
        a hairpin
        a bird's egg
        a broken whistle
        a walnut
        a spoon without a handle
        a very flat frog
        a glove for the left hand
        a buckle
        a chess piece"""),
    "excuse": _lines("""
        lost a shoe
        stopped to talk to a cow
        forgot which day it was
        fell asleep in the bath
        took the wrong road twice
        could not find the front door
        was chased by a goose
        had to wait for a snail
        left the soup on the stove
        met an old friend
        got stuck in a jersey
        was helping a hedgehog across
        had to look for the other stocking
        was thinking about something else
        sat down for a moment
        followed a butterfly
        counted the stairs and had to go back
        dropped a plate
        had a stone in one boot
        was held up by a duck
        mislaid the map
        was reading and missed the turning
        stayed to hear the end of a song
        put the clock back by mistake"""),
    "fact": _lines("""
        snails can sleep for years
        owls cannot move their eyes
        cows have best friends
        otters hold hands when they sleep
        no bee ever has a holiday
        a swift can sleep while it flies
        bats are not blind at all
        a worm has no nose
        ants never get lost
        frogs drink with their skin
        fish do not blink
        moles can swim
        a goose remembers faces
        hedgehogs like music
        the moon has no light of its own
        spiders eat their old webs
        cats cannot taste sugar
        toads come home to the same pond
        a hen can count
        rooks have a parliament
        butterflies taste with their feet
        a tree drinks all night
        thunder is only a noise
        no two snowflakes are alike
        pigs dream
        sheep know one another by name
        an oyster can change its mind
        crickets have ears on their knees
        giraffes have no voice
        squirrels forget where they put things"""),
    "plan": _lines("""
        keep bees
        sail round the world in a tub
        live in a tree
        own a bakery
        drive a train
        train a snail
        build a bridge
        play the tuba at weddings
        find a comet
        learn to whistle with two fingers
        be taller than the stove
        stay up all night
        write a very thick book
        keep a donkey and a cat
        invent a spoon for soup on boats
        paint the church pink
        dig to the other side
        climb something with snow on it
        have a shop that sells only buttons
        never wear socks
        be asked for advice
        catch a whale and let it go
        ride on a camel
        eat pudding first
        have a bell to ring
        go to bed at midnight
        be somebody's grandmother
        find out where the wind lives
        have breakfast on a roof
        teach a goose to dance"""),
    "dream": _lines("""
        flew over the roofs in a bathtub
        had to eat soup with a fork
        was the king of the ducks
        could speak with furniture
        was late for school in pyjamas
        lived inside a pumpkin
        danced with a lamp post
        had ears as long as a road
        swam in a sea of tea
        was chased by a kind of jelly
        owned a mountain and had to dust it
        rode to the moon on a goose
        forgot how to sit
        had to count every leaf
        was as small as a pea
        met a bear in a bonnet
        wore a hat that rang
        talked with a trout
        lost a race against a chair
        was given a medal by a snail"""),
    "saying": _lines("""
        A slow foot gets there too
        What is shared tastes better
        Nobody is late for a thing not begun
        A good question is half a lunch
        It is never too late for breakfast
        Look first and shout afterwards
        Small boats get home too
        Those who laugh last have not been listening
        A friend is a roof in the rain
        You cannot hurry a pudding
        The shortest way is through the kitchen
        A word kept is better than a purse found
        Ask the one who sweeps the floor
        There is no bad weather under a good hat
        He who counts twice sleeps once
        A locked door does not keep out a good smell
        What the hand forgets the foot must fetch
        Even a clock that stands still is right twice
        It takes a crooked path to meet everybody
        Put it back and you will find it
        A secret weighs more than a sack of flour
        One kind word warms a long winter
        Wise people carry string
        Not every noise is a bear
        The pot that is watched is at least in company
        If you must fall then fall on straw
        A small mistake mends quickly
        Better a small light than a long speech"""),
    "oh": _lines("""
        Goodness
        Dear me
        Bother
        My word
        Well I never
        Good heavens
        Fancy that
        Oh dear
        Upon my whiskers
        Gracious
        Would you believe it
        Great pumpkins
        Mercy
        Bless my boots"""),
    "pleased": _lines("""
        as pleased as a cat in a dairy
        as proud as a peacock with two tails
        as happy as a pig in a puddle
        as warm as toast
        as light as a feather
        as merry as a cricket
        as tall as a church
        happier than a dog with two bones
        as good as new
        like a king on his birthday
        as cheerful as a lark
        as snug as a bean in a pod
        like the first day of the holidays
        as rich as a miller
        as contented as an old cat on a stove"""),
    "fast": _lines("""
        like the wind
        like a hare
        as fast as two legs can go
        like a cork out of a bottle
        as if a bull were behind
        quicker than a wink
        like butter off a hot knife
        as quickly as manners allow
        like a cat that has seen a fish
        faster than a rumour
        like a stone from a sling
        as if the house were on fire"""),
}

# How a word of a list may be described, every other time.
DESCRIBED: dict[str, tuple[str, ...]] = {
    "animal": _words("""
        sleepy hungry spotted grumpy friendly fat thin old young shaggy wet fluffy curious stubborn
        lame muddy"""),
    "bird": _words("""
        sleepy hungry speckled grumpy fat thin old young noisy cheeky ruffled tame plump
        inquisitive"""),
    "insect": _words("tiny striped shiny dusty lost sleepy hairy hurried drowsy spotted"),
    "tool": _words("""
        rusty heavy borrowed broken blunt wooden brand-new bent long sturdy crooked old
        second-hand"""),
    "cloth": _words("""
        woollen striped patched checked knitted clean silk flannel torn borrowed spotted quilted
        brand-new faded"""),
    "treat": _words("""
        warm fresh sticky sweet small large sugared home-made squashed crisp juicy half-eaten
        spiced delicious lukewarm"""),
    "food": _words("hot cold fresh sweet warm thick salty plain left-over home-made"),
    "flower": _words("wild pale late wilted scented early single"),
    "tree": _words("old tall crooked hollow mighty bent bare mossy leafy lonely"),
    "vehicle": _words("noisy slow rusty overloaded creaking painted rickety borrowed"),
    "sound": _words("loud soft sudden strange faint dreadful long hollow familiar short"),
    "shape": _words("huge sleeping broken dancing furious flying sitting laughing"),
    "instrument": _words("battered old borrowed squeaky enormous out-of-tune"),
    "toy": _words("new second-hand painted wooden splendid old small mended"),
    "trade": _words("young old famous retired tall wandering jolly"),
}

# Words that may stand for each other wherever prose has the first of them.
ALIKE = _lines("""
    nobody|no one
    everybody|everyone
    somebody|someone
    anybody|anyone
    at last|finally|in the end
    at once|straight away|immediately|right away
    began to|started to
    shouted|called out|yelled|bellowed
    cried|exclaimed|called out|gasped
    ran to|raced to|hurried to|dashed to
    ran out|raced out|hurried out|dashed out
    ran after|raced after|hurried after|chased after
    looked at|gazed at|stared at|peered at
    because|since
    big|large|great
    a great deal|a lot|no end
    all the same|anyway|nevertheless
    far away|a long way off|in the distance
    laughed|chuckled|giggled
    wanted to|hoped to|meant to|wished to
    fetched|brought|went for
    soon|before long|in no time
    the next day|the day after|the following day
    talk about|speak of|tell of|chat about
    by mistake|by accident
    sat down|settled down|took a seat
    walked|strolled|marched|ambled
    climbed|clambered|scrambled
    afraid|frightened|scared
    dull|boring|tedious
    suddenly|all at once|without warning
    perhaps|maybe|possibly
    whispered|breathed|murmured
    was gone|had vanished|had disappeared
    tired of|bored with|weary of
    all day long|from morning to night|the whole day
    hungry|starving|ravenous|famished
    small|tiny|little
    present|gift
    was the answer|was the reply|came the answer
    of course|naturally|certainly
    nearly|almost|just about
    funny|comical|amusing
    strange|odd|peculiar|curious
    stomach|belly|tummy
    pulled|tugged|hauled
    carried|lugged
    dug|shovelled
    threw|tossed|flung
    knocked|rapped|tapped
    smiled|grinned|beamed
    beautiful|lovely|splendid|magnificent
    remembered|recalled
    softly|quietly|gently|in a low voice
    clapping|applause|cheering
    fell asleep|dropped off|nodded off
    got up|rose|stood up
    house|cottage
    friends|companions
    dreadful|awful|terrible
    in the evening|at nightfall|at dusk
    one morning|one fine morning|one day
    They|The two|Both of them|{A} and {B}|The two friends
""")
