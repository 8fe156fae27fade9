"""The routes: each request is read, taken in or refused, embedded, answered and counted."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ..model.modeling_moee import MoEEModel
from .answers import first_dimensions, inference_answer, inference_error, openai_answer, openai_error
from .endpoint import Answer, Body, ClientLeftError, Endpoint, Error, Gate
from .limits import Limits, RequestError, Visit
from .metrics import MEDIA_TYPE
from .requests import Embeddings, Served, check_name, prompt_of, read_inference, read_openai
from .worker import Worker


def create_app(
    model: MoEEModel,
    name: str = "moee",
    prompt: str | None = None,
    limits: Limits | None = None,
    api_key: str | None = None,
    normalize: bool = False,
) -> Starlette:
    """Return a Starlette application that serves a model; any ASGI server runs it, in one process.

    Args:
        model: The model; nothing else may change it meanwhile.
        name: What clients call it.
        prompt: The prompt of requests that name none: a name, several with `+` between them, or a template. None: the
            model's.
        limits: What it takes in. None: the defaults.
        api_key: What requests must carry as `Authorization: Bearer ...`. None: nothing.
        normalize: Whether vectors in OpenAI's form have length 1 where a request says nothing of it.

    Raises:
        ValueError: If there is no such prompt.
    """
    templates = tuple(model.config.find_prompts(prompt))
    service = Service(Served(model, name, templates, limits or Limits(), normalize), api_key)

    def route(method: str, path: str, answer: Answer, error: Error = openai_error) -> Route:
        return Route(path, Endpoint(service.gate, path, answer, error), methods=[method])

    routes = [
        route("POST", "/v1/embeddings", service.embeddings),
        *(
            route("POST", path, partial(service.inference, compares=compares), inference_error)
            for path, compares in {"/": None, "/embed": False, "/similarity": True}.items()
        ),
        route("GET", "/v1/models", service.models),
        route("GET", "/v1/models/{name:path}", service.models),
        route("GET", "/metrics", service.metrics),
        Route("/health", service.health),
    ]
    return Starlette(routes=routes, exception_handlers={HTTPException: _http_error})


class Service:
    """A model and its worker; each method that answers is one route.

    Args:
        served: What is offered.
        api_key: What requests must carry. None: nothing.
    """

    def __init__(self, served: Served, api_key: str | None):
        self.served, self.gate = served, Gate(served.limits, api_key)
        self.worker = Worker(served.model, self.gate.metrics)
        self.created = int(time.time())
        # one body at a time: JSON is many times larger once it is read
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="moee-reader")

    async def embeddings(self, request: Request, body: Body, visit: Visit) -> Response:
        """OpenAI's form."""
        wanted = await self._read(read_openai, body, visit)
        vectors, num_tokens = await self._embed(wanted, body, visit)
        prompt = prompt_of(wanted.options.templates, self.served)
        arguments = (vectors, wanted.base64, self.served.name, prompt, num_tokens)
        return _json(await asyncio.to_thread(openai_answer, *arguments))

    async def inference(self, request: Request, body: Body, visit: Visit, compares: bool | None) -> Response:
        """The forms of text-embeddings-inference; `compares`: whether texts are to be compared. None: either."""
        wanted, is_comparison = await self._read(read_inference, body, visit)
        if compares not in (None, is_comparison):
            expected = "'source_sentence' and 'sentences'" if compares else "texts"
            raise RequestError(400, f"inputs: expected {expected}; got something else.", "inputs")
        vectors, _ = await self._embed(wanted, body, visit)
        if is_comparison:
            vectors = self.served.model.similarity(vectors[0], vectors[1:])[0].numpy()
        return _json(await asyncio.to_thread(inference_answer, vectors))

    async def models(self, request: Request, body: Body, visit: Visit) -> Response:
        """What is served, or, asked for by name, that alone."""
        config = self.served.model.config
        model = {
            "id": self.served.name,
            "object": "model",
            "created": self.created,
            "owned_by": "moee_hf",
            "embedding_size": config.embedding_size,
            "max_length": self.served.model.max_length,
            "prompt": prompt_of(self.served.templates, self.served),
            "prompts": sorted(config.known_prompts),
        }
        if (name := request.path_params.get("name")) is not None:
            check_name(name, self.served)
            return JSONResponse(model)
        return JSONResponse({"object": "list", "data": [model]})

    async def metrics(self, request: Request, body: Body, visit: Visit) -> Response:
        """What was done, for Prometheus."""
        text = self.gate.metrics.text(self.gate.admission.texts, self.worker.queued)
        return Response(text, headers={"content-type": MEDIA_TYPE})

    async def health(self, request: Request) -> Response:
        """That requests are taken in; no key is asked for."""
        return JSONResponse({"status": "ok"})

    async def _read(self, read: Callable[[bytes, Served], Any], body: Body, visit: Visit) -> Any:
        """Read a body into what is wanted; nothing is read while there is room for no text."""
        if self.gate.admission.texts >= self.served.limits.max_waiting:
            raise self.overloaded()
        content = await body.read(self.served.limits.max_bytes, visit)
        if content is None:
            raise self.overloaded("fewer bytes of requests; the memory for them is taken")
        return await asyncio.get_running_loop().run_in_executor(self._reader, read, content, self.served)

    async def _embed(self, wanted: Embeddings, body: Body, visit: Visit) -> tuple[np.ndarray, int]:
        """Wait for the vectors, as long as the client does."""
        if not visit.add_texts(len(wanted.texts) * len(wanted.options.templates)):
            raise self.overloaded()
        work = asyncio.ensure_future(self.worker.embed(wanted.texts, wanted.names, wanted.options))
        gone = asyncio.ensure_future(body.wait_for_end())
        try:
            await asyncio.wait((work, gone), return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                raise ClientLeftError
            vectors, num_tokens = work.result()
        finally:
            work.cancel()
            gone.cancel()
        return first_dimensions(vectors, wanted.dimensions, wanted.options.normalize), num_tokens

    def overloaded(self, problem: str = "fewer texts waiting; all places are taken") -> RequestError:
        """The refusal of what there is no room for."""
        seconds = self.worker.retry_after()
        message = f"server: expected {problem}. Try again in {seconds} s."
        return RequestError(429, message, code="overloaded", retry_after=seconds)


def _json(content: bytes) -> Response:
    return Response(content, media_type="application/json")


def _http_error(request: Request, error: Exception) -> Response:
    """What Starlette refuses itself: routes and methods that there are not."""
    status = getattr(error, "status_code", 500)
    problem = "method: expected another" if status == 405 else "path: expected a route of this server"
    message = f"{problem}; got {request.method} {request.url.path[:100]}. /v1/embeddings takes POST."
    refusal = RequestError(status, message, code="not_found" if status == 404 else "not_allowed")
    return JSONResponse(openai_error(refusal), status, getattr(error, "headers", None))
