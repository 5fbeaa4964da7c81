"""Processes that are forked from one which has imported torch. Importing it takes three seconds."""

import multiprocessing

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["torch", "torch._dynamo", "torch.distributed.fsdp", "pytest",
                               "hypothesis"])


def run(script: str, **given) -> int:
    """Runs a script with these global names. Returns its exit code."""
    process = SERVER.Process(target=exec, args=(script, given))
    process.start()
    process.join()
    return process.exitcode
