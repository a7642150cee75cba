"""The benchmark: one training step, timed beside the other ways to take it.

`command` parses and prints, `runner` lets the contenders take turns, `worker` is the
process that each of them lives in, `contenders` are bptt, NumPy, PyTorch and JAX. The
repository adds oneDNN and the peak rate of the machine: ``python -m bench``.
"""
