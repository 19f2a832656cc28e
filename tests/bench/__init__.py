"""The benchmark: ``make bench``, or ``python -m tests.bench --only W1sat,W3x100``.

It measures and prints; it asserts nothing. Everything runs on this machine: a Redis, one ingress, some workers, a
provider that writes prepared bytes, and a load that reads them, each a process of its own, so that the CPU of the
relay's parts can be read from the kernel. The workloads are few and short; compare only what ran in the same hour.
"""
