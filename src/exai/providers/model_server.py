"""The local model's own process: a script, run by `model_process`, never imported.

One line of settings comes in on stdin (the API key among them, so that it stands neither
in the arguments nor in the environment), and one line, the address, goes out on stdout.
It serves until it is killed, or at the latest until stdin ends.
"""

import json
import os
import sys
from importlib import import_module
from typing import Any


def serve(settings: dict[str, Any]) -> str:
    """Load the model, serve it on a free port of 127.0.0.1, return the address."""
    xllamacpp = import_module("xllamacpp")  # optional, untyped, and 100 MiB of memory
    params = xllamacpp.CommonParams()
    params.model.path = settings["model_path"]
    params.model_alias = {settings["model_name"]}
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.api_keys = [settings["api_key"]]
    params.n_parallel = settings["slots"]
    params.n_ctx = settings["context_tokens"] * settings["slots"]
    params.n_batch = params.n_ubatch = settings["batch_tokens"]  # between two, it can be cancelled
    params.n_predict = settings["max_tokens"]
    params.cpuparams.n_threads = settings["threads"]
    params.cpuparams_batch.n_threads = settings["threads"]
    params.use_jinja = settings["use_jinja"]
    for name, value in settings["sampling"].items():
        setattr(params.sampling, name, value)
    params.fit_params = False  # half a second, to find out that another context might fit better
    params.cache_ram_mib = 64
    params.endpoint_slots = False
    params.ui = False
    params.offline = True
    params.verbosity = -1
    server = xllamacpp.Server(params)
    _KEPT.append(server)
    return str(server.listening_address)


_KEPT: list[Any] = []
"""The server stops when its object is collected."""


def main() -> None:
    """Serve until stdin ends."""
    answer = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what native code prints is no answer
    settings = json.loads(sys.stdin.readline())
    with answer:
        answer.write(serve(settings) + "\n")
    sys.stdin.read()
    os._exit(0)  # native threads may be busy; there is nothing to save


if __name__ == "__main__":
    main()
