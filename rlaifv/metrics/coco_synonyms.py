"""Words for the 80 object classes of COCO, one row per class, the class name first.

The class names are COCO's (arXiv 1405.0312). The other words were chosen for this project: nouns, in the singular, that
name a thing of the class and hardly anything else. They are no copy of CHAIR's list, so numbers compare with published ones
only when the official list is given as a file.
"""

ROWS = """
person, man, woman, boy, girl, child, kid, baby, infant, toddler, teenager, adult, people, pedestrian, guy, lady, gentleman, \
male, female, mother, father, mom, dad, parent, son, daughter, brother, sister, husband, wife, grandmother, grandfather, \
player, athlete, batter, catcher, umpire, referee, goalkeeper, skier, snowboarder, skateboarder, skater, surfer, \
swimmer, runner, jogger, cyclist, bicyclist, biker, motorcyclist, rider, jockey, driver, passenger, pilot, sailor, tourist, \
traveler, commuter, visitor, spectator, bystander, onlooker, shopper, customer, waiter, waitress, bartender, chef, \
baker, farmer, worker, policeman, policewoman, cop, officer, soldier, firefighter, fireman, doctor, nurse, dentist, \
teacher, student, businessman, businesswoman, cowboy, bride, groom, performer, musician, guitarist, dancer, \
singer, photographer, clown, hiker, fisherman, vendor
bicycle, bike, tricycle, unicycle
car, automobile, sedan, hatchback, limousine, minivan, suv, jeep, taxi, taxicab, coupe
motorcycle, motorbike, scooter, moped, motor bike, motor cycle
airplane, plane, aeroplane, aircraft, jet, airliner, jetliner, biplane, seaplane, air plane
bus, minibus, trolleybus
train, locomotive, tram, streetcar, railcar, monorail
truck, lorry, van, semitrailer, firetruck
boat, ship, sailboat, canoe, kayak, yacht, ferry, gondola, dinghy, raft, rowboat, motorboat, speedboat, barge, tugboat
traffic light, stoplight, street light, traffic signal, stop light
fire hydrant, hydrant
stop sign
parking meter
bench, pew
bird, pigeon, seagull, gull, duck, duckling, goose, swan, parrot, parakeet, owl, eagle, hawk, crow, raven, sparrow, finch, \
heron, robin, pelican, ostrich, peacock, penguin, flamingo, rooster, hen, hummingbird, woodpecker, cockatoo, dove
cat, kitten, kitty, tabby
dog, puppy, pup, terrier, poodle, bulldog, beagle, dachshund, chihuahua, corgi, collie, labrador, dalmatian, \
greyhound, pug
horse, pony, foal, mare, stallion, colt
sheep, lamb, ewe, ram
cow, cattle, bull, calf, ox, heifer, bovine
elephant
bear, panda, grizzly
zebra
giraffe
backpack, rucksack, knapsack
umbrella, parasol
handbag, purse, wallet, pocketbook
tie, necktie, bowtie, bow tie
suitcase, luggage, briefcase, suit case
frisbee
skis, ski
snowboard
sports ball, ball
kite
baseball bat
baseball glove
skateboard, longboard
surfboard, paddleboard
tennis racket, racket, racquet
bottle, flask
wine glass, wineglass, goblet
cup, mug, teacup, tumbler
fork
knife, cleaver, pocketknife
spoon, ladle, teaspoon, tablespoon
bowl
banana
apple
sandwich, hamburger, burger, cheeseburger, panini
orange, clementine, tangerine
broccoli
carrot
hot dog, hotdog
pizza
donut, doughnut
cake, cupcake, cheesecake, shortcake
chair, armchair, recliner, seat
couch, sofa, loveseat, futon, settee
potted plant, houseplant, bonsai
bed, mattress, cot
dining table, table, coffee table
toilet, urinal
tv, television, monitor
laptop, laptop computer
mouse
remote, remote control
keyboard
cell phone, cellphone, phone, smartphone, iphone, mobile phone
microwave
oven, stove, stovetop
toaster
sink, washbasin
refrigerator, fridge, freezer
book, textbook, paperback
clock, alarm clock
vase, urn
scissors, shears
teddy bear, teddy
hair drier, hairdryer, hair dryer
toothbrush
"""
