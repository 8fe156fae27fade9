"""The program of a Space: the demo of the model that `space.json` names, both beside the folder `moee_hf/`."""

import json
import os
from pathlib import Path

import uvicorn

from moee_hf import MoEEModel
from moee_hf.demo import create_app
from moee_hf.model.devices_moee import accelerators

if __name__ == "__main__":
    space = json.loads(Path(__file__).with_name("space.json").read_text(encoding="utf-8"))
    model = MoEEModel.from_pretrained(
        space["model"],
        revision=space["revision"],
        dtype="auto",
        device_map="auto" if accelerators() else "cpu",
        **space["choices"],
    )
    # where Spaces are asked for; elsewhere, this machine alone
    host, port = os.environ.get("GRADIO_SERVER_NAME", "127.0.0.1"), os.environ.get("GRADIO_SERVER_PORT", "7860")
    uvicorn.run(create_app(model), host=host, port=int(port), log_level="warning")
