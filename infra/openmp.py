"""How torch's threads wait for each other. Each command imports this file before torch.

A thread of GNU OpenMP that waits at a barrier first spins, by default 300,000 times: some 10 ms. On
a busy machine it spins while the thread that it waits for has no core. SPINS is the limit here: the
thread then sleeps, and gives its core away. docs/scaling.md has the measurements.
The variables of the user are kept. OpenMP reads them once, when torch is loaded.
"""

import os
import sys

SPINS = "6000"

if "torch" not in sys.modules and not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & set(os.environ):
    os.environ["GOMP_SPINCOUNT"] = SPINS
