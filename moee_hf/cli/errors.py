"""What a command says and returns when it cannot go on: one sentence, and an exit code as the shell has it."""

from __future__ import annotations

import argparse
import errno
from typing import Any

# arguments of Python whose flag has another name
_FLAGS = {
    "prompt_name": "prompt",
    "device_map": "device",
    "quantization_config": "quantize",
    "corpus": "calibrate",
    "store": "vectors",
    "normalize_embeddings": "normalize",
}
_ADVICE = {
    errno.ENOENT: "expected a file or folder; there is none. Check the path",
    errno.EISDIR: "expected a file; it is a folder. Name a file",
    errno.ENOTDIR: "expected a folder; a part of the path is a file. Check the path",
    errno.EEXIST: "expected a name that is free; there is something. Choose another",
    errno.EACCES: "expected the right to read or write here; you have none. Choose another path",
    errno.EPERM: "expected the right to read or write here; you have none. Choose another path",
    errno.EROFS: "expected a folder to write in; it is read-only. Choose another path",
    errno.ENOSPC: "expected room for the file; the disk is full. Free some, or choose another path",
}


def sentence(error: BaseException, arguments: argparse.Namespace) -> str | None:
    """Return what an error says to a user, on one line; None if it is a fault of the program."""
    if isinstance(error, RuntimeError) and str(error).startswith("devices: "):  # which one, and why
        text = _with_flag(str(error), arguments)
    elif _is_out_of_memory(error):
        text = (
            "memory: expected enough for the model and a batch; there is not. Lower --batch-size, load with --dtype "
            "bfloat16 or --quantize nf4, or take a larger device or a smaller model."
        )
    elif isinstance(error, OSError) and error.errno is not None and error.strerror:
        # how often a file is there, and why not, is what the system says; what to do it does not
        where = "" if error.filename is None else f"{error.filename}: "
        text = f"{where}{_ADVICE.get(error.errno, error.strerror)}."
    elif isinstance(error, ValueError | OSError | ImportError | TypeError):
        text = _with_flag(str(error), arguments)
    else:
        return None
    return " ".join(text.splitlines())


def _is_out_of_memory(error: BaseException) -> bool:
    # torch has a class of its own on some devices, and says it in words on others
    words = ("out of memory", "can't allocate memory", "not enough memory")
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(part in str(error).lower() for part in words)
    )


def _with_flag(message: str, arguments: argparse.Namespace) -> str:
    """Name a flag where the message of an error begins with the argument of Python that it stands for."""
    name, colon, rest = message.partition(":")
    field = name.removeprefix("MoEEConfig.")
    flag = _FLAGS.get(field, field)
    values = vars(arguments)
    if field != name:  # of the configuration: a flag may have chosen it, or it lies in the model
        is_flag = flag in arguments.flags and values.get(flag) is not None
    else:  # a file or folder may have the name of a flag
        is_flag = flag in arguments.flags and name not in map(str, values.values())
    return f"--{flag.replace('_', '-')}{colon}{rest}" if is_flag else message


def replace_unknown_characters(*streams: Any) -> None:
    """Let what a terminal cannot show be a question mark, and no error."""
    for stream in streams:
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
