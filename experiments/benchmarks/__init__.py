"""What `experiments.bench` measures: one file a command (docs/speed.md).

attention.py   kernels alone: peak memory and time by length (kernel_cost.py measures one case)
train.py       a whole training step, beside transformers  (contenders.py builds them)
decode.py      writing text, beside transformers and llama.cpp (llama.py)
learn.py       validation loss by time since the start of `train.py`
start.py       the time until a command shows its first result
every.py       all of them

benchmark.py   what they share: the interface, tables and the error for a wrong result
timing.py      interleaved medians, growth exponents
children.py    commands of Breeze as child processes
machine.py     the machine, and its rate of matrix products
peer.py        transformers with Breeze's weights
picture.py     PNG
"""
