"""Web application of the server: predictions, tasks, health and metrics."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import Depends, FastAPI, HTTPException, Query, Request
from fastapi.responses import JSONResponse, PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from autotune.deploy.serve.admission import require_local, require_token
from autotune.deploy.serve.batching import ALL
from autotune.deploy.serve.limits import Limits
from autotune.deploy.serve.service import Service, probabilities
from autotune.errors import (
    ArtifactError,
    AutotuneError,
    Busy,
    NoTask,
    ServeError,
    TaskError,
    brief,
)


def make_app(service: Service, token: str | None = None) -> FastAPI:
    """Create the application of a service; with `token`, all paths but /health require it.

    Without one, they require that the request comes from this machine.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.batches.start()
        yield
        await service.batches.stop()

    def allowed(request: Request) -> None:
        if token is None:
            require_local(request)
        else:
            require_token(request, token)

    app = FastAPI(
        title="autotune", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None
    )
    app.add_exception_handler(AutotuneError, _refused)
    guarded = [Depends(allowed)]

    @app.get("/health")
    async def health() -> dict[str, Any]:
        return {"status": "ok", "tasks": len(service.tasks)}

    @app.get("/metrics", dependencies=guarded)
    async def metrics() -> PlainTextResponse:
        text = generate_latest(service.registry).decode()
        return PlainTextResponse(text, media_type=CONTENT_TYPE_LATEST)

    @app.get("/tasks", dependencies=guarded)
    async def tasks() -> list[dict[str, Any]]:
        return [task.to_json(name) for name, task in service.tasks.items()]

    @app.put("/tasks/{name}", status_code=201, dependencies=guarded)
    async def add(name: str, request: Request) -> dict[str, Any]:
        content = await _json(request, service)
        await service.add(name, str(content.get("path", "")))
        return service.tasks[name].to_json(name)

    @app.delete("/tasks/{name}", dependencies=guarded)
    async def remove(name: str) -> dict[str, Any]:
        await service.remove(name)
        return {"removed": name}

    @app.post("/predict", dependencies=guarded)
    async def predict_all(request: Request, top: int = Query(1, ge=1)) -> JSONResponse:
        return await _predicted(service, request, ALL, top)

    @app.post("/predict/{task}", dependencies=guarded)
    async def predict(task: str, request: Request, top: int = Query(1, ge=1)) -> JSONResponse:
        return await _predicted(service, request, task, top)

    return app


async def _predicted(service: Service, request: Request, name: str, top: int) -> JSONResponse:
    started, status = time.perf_counter(), "500"
    known = name if name in service.tasks or name == ALL else "unknown"
    try:
        predictions = await _answered(service, request, name, top)
        status = "200"
        if name == ALL:
            return JSONResponse({"predictions": predictions})
        return JSONResponse({"task": name, "predictions": predictions[name]})
    except AutotuneError as error:
        status = str(_status(error))
        raise
    except HTTPException as error:
        status = str(error.status_code)
        raise
    finally:
        service.requests.labels(known, status).inc()
        service.seconds.labels(known).observe(time.perf_counter() - started)


async def _answered(service: Service, request: Request, name: str, top: int) -> dict[str, Any]:
    service.require_place()
    tasks = service.asked(name)
    body = await _body(request, service.limits)  # a slow one takes nobody's place
    kind, input = request.headers.get("content-type", ""), next(iter(tasks.values())).input
    with service.place():
        answers = await service.answer(await service.read(body, kind, input), tasks)
    return {n: probabilities(logits, tasks[n].classes, top) for n, logits in answers.items()}


async def _body(request: Request, limits: Limits) -> bytes:
    """Whole body of a request; status 408 if it does not arrive in time, 413 if it is too long."""
    try:
        return await asyncio.wait_for(_received(request, limits.bytes), limits.seconds)
    except asyncio.TimeoutError as error:
        raise HTTPException(
            408, f"A body must arrive within {limits.seconds:g} s. Send it faster."
        ) from error


async def _received(request: Request, most: int) -> bytes:
    """Whole body of a request; status 413 as soon as it is longer than `most` bytes."""
    too_long = HTTPException(
        413, f"A request has at most {most:,} bytes. Send fewer examples at once."
    )
    length = request.headers.get("content-length") or "0"
    if not length.isdecimal() or len(length) > MOST_DIGITS or int(length) > most:
        raise too_long
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > most:
            raise too_long
    return bytes(body)


MOST_DIGITS = 15
"""Digits of a length in bytes; Python refuses to read numbers of thousands."""


async def _json(request: Request, service: Service) -> dict[str, Any]:
    try:
        content = json.loads(await _body(request, service.limits))
    except (ValueError, RecursionError) as error:
        raise HTTPException(
            422, f'The body must be JSON like {{"path": "FILE"}} ({brief(str(error))}).'
        ) from error
    if not isinstance(content, dict):
        raise HTTPException(422, 'The body must be JSON like {"path": "FILE"}.')
    return content


def _status(error: AutotuneError) -> int:
    if isinstance(error, Busy):
        return 503
    if isinstance(error, NoTask):
        return 404
    return 422 if isinstance(error, TaskError | ServeError | ArtifactError) else 500


async def _refused(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, AutotuneError)
    return JSONResponse({"detail": str(error)}, _status(error))
