"""The environment of the tests, set where this is imported, which is before huggingface_hub reads it.

Nothing may reach for the Hub: a server of our own takes its place for tests that ask for the fixture `hub`, and the
cache is empty.
"""

import os
import socket
import tempfile

HUB_SOCKET = socket.socket()
HUB_SOCKET.bind(("127.0.0.1", 0))
_home = tempfile.TemporaryDirectory()
os.environ["HF_ENDPOINT"] = f"http://127.0.0.1:{HUB_SOCKET.getsockname()[1]}"
os.environ["HF_HOME"] = _home.name
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.pop("HF_TOKEN", None)
if "PYTEST_XDIST_WORKER" in os.environ:  # the processes share the processor
    os.environ["OMP_NUM_THREADS"] = "1"
