"""What is kept: the schemas of the record kinds, and the way there and back.

``registry`` and ``bodies`` hold the schemas, ``encode`` writes them in the loop, ``decode`` reads what a page shows.
"""
