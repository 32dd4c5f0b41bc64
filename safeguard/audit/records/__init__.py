"""What is kept: the schemas of the record kinds, and the way there and back.

``registry`` has the kinds with their schemas (``bodies``, ``events``, ``cut``). ``encode`` writes in the loop,
``expand`` gives decisions their names again, ``decode`` makes loop types of them.
"""
