"""How train.py ends: a failure becomes one sentence and an exit code."""

import sys

from infra import arguments, distributed
from infra.files import UserError
from infra.terminal import echo
from verify import RewardError

BAD_FILE = (FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError)


def exit_code(work) -> int:
    """Calls work() and prints its failure in one sentence. Returns the exit code: 0 done, 1 the run
    failed, 2 bad input, 130 Ctrl-C. Other errors pass: they are faults of the program.

    `arguments.run` does this for the other programs. There every ValueError and OSError is bad
    input. A run of hours has other failures: a full disk, or another process that died."""
    arguments.write_any_text()
    code, message = 0, ""
    try:
        work()
    except (UserError, RewardError) as error:
        code, message = 2, f"train.py: {arguments.describe(error)}"
    except (FloatingPointError, OSError) as error:  # a full disk is a failure, no bad input
        code = 2 if isinstance(error, BAD_FILE) else 1
        message = f"train.py: {arguments.describe(error)}"
    except KeyboardInterrupt:
        code, message = 130, ("\nstopped; the same command with --resume goes on from the last "
                              "checkpoint, or begins again where there is none")
    except (MemoryError, RuntimeError) as error:
        if distributed.is_peer_failure(error):
            code, message = 1, ("train.py: another process has died; --resume continues from the "
                                f"last checkpoint ({arguments.describe(error)})")
        elif arguments.is_out_of_memory(error):
            code, message = 1, ("train.py: there is not enough memory; try a smaller "
                                f"--micro-tokens ({arguments.describe(error)})")
        else:
            raise
    if message and (distributed.rank() == 0 or code == 1):
        echo(message, file=sys.stderr)
    distributed.stop()
    return code
