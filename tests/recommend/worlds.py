"""A small world and what is needed to learn it."""

from demask.recommend import Dimensions, Known

WORLD = Known.random(items=24, attributes=3, values=4, concentration=0.3, key=1)
LOG = WORLD.sample(120, least=3, most=8, key=2)
SHELF = WORLD.catalogue(LOG)
SMALL = Dimensions(digits=3, codes=4, width=16, layers=2, heads=2, hidden=32, history=6, dropout=0.2)
EXTRA = "needs the extra: pip install 'demask[recommend]'"
