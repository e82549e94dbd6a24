"""What `experiments.sinks` measures.

reading.py   the nats of a long text, read in several ways
shares.py    where the attention of each head goes
measure.py   both, of the runs of a group
names.py     the names of the ways of reading
results.py   the results as data
page.py      the tables, charts and sentences about them
"""
