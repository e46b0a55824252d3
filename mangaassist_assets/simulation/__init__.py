"""Traffic with known drift, for the demo, the tests and the studies of how well drift is told apart; `docs/simulation.md` explains it.

pool.py        messages whose true intent is known, and what each model answers to them
wording.py     texts that no pool holds: an intent nobody labelled, slang nobody has seen
scenarios.py   what changes, how much and from which day
traffic.py     the answers of one day after another
counting.py    a day straight to the rows that drift is computed from, for studies
records.py     a day as the table of interactions, and as the segments that a service would have written
people.py      what people do in the loop: label from the truth, approve
running.py     simulate(): feeds an installation day by day
"""
