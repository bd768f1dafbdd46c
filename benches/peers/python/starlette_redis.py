"""Starlette with redis-py: get from the cache, else read the row, and fill the cache.

The flow of many session services: the database is the truth, Redis answers. Served by uvicorn with uvloop and httptools, one
process and no access log (https://www.uvicorn.org/settings/), redis-py with hiredis and its own pool
(https://redis.readthedocs.io/en/stable/examples/asyncio_examples.html). SQLite in WAL mode with synchronous = FULL, so that a
session whose creation was answered survives a power loss, as sessiond's do.
"""

import contextlib
import json
import os
import secrets
import socket
import time

import aiosqlite
import redis.asyncio
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

CACHED_SECS = 3_600
TIMEOUT_SECS = 7 * 86_400
AT = "2026-01-01T00:00:00.000Z"
SCHEMA = "CREATE TABLE IF NOT EXISTS sessions (token TEXT PRIMARY KEY, session TEXT NOT NULL, expires_at INTEGER NOT NULL)"


def session_of(sign_in: dict) -> dict:
    """What is kept, and answered when it is checked: the 850 bytes that every peer keeps."""
    return {
        "id": "01a1ffa1-53a4-730d-859f-5c1548f3b539",
        "user_id": sign_in["user_id"],
        "device_info": "Firefox on Linux",
        "ip_address": sign_in["ip_address"],
        "location": "DE",
        "created_at": AT,
        "last_activity_at": AT,
        "expires_at": AT,
        "is_revoked": False,
        "is_current": True,
        "app": "default",
        "status": "active",
        "name": None,
        "is_trusted": False,
        "device": {
            "browser": "Firefox",
            "browser_version": "140.0",
            "os": "Linux",
            "os_version": None,
            "type": "desktop",
            "is_bot": False,
        },
        "user_agent": sign_in["user_agent"],
        "last_ip_address": None,
        "place": {"city": None, "country": "DE"},
        "authenticated_at": AT,
        "absolute_expires_at": AT,
        "ended_at": None,
        "revoked_reason": None,
        "ended_by": None,
        "auth": None,
        "identities": {},
        "client_session_id": None,
        "data_version": 0,
    }


def token_of(request: Request) -> str:
    return request.headers.get("authorization", "").removeprefix("Bearer ")


async def check(request: Request) -> Response:
    state, token = request.app.state, token_of(request)
    cached = await state.cache.get(f"session:{token}")
    if cached is None:
        cached = await row_of(state.database, token)
        if cached is None:
            return Response(status_code=401)
        await state.cache.set(f"session:{token}", cached, ex=CACHED_SECS)
    return JSONResponse(json.loads(cached))


async def row_of(database: aiosqlite.Connection, token: str) -> str | None:
    query = "SELECT session FROM sessions WHERE token = ? AND expires_at > ?"
    async with database.execute(query, (token, int(time.time()))) as cursor:
        row = await cursor.fetchone()
    return row[0] if row else None


async def create(request: Request) -> Response:
    state, token = request.app.state, secrets.token_urlsafe(32)
    session = json.dumps(session_of(await request.json()))
    # Autocommit: the row is durable before it is cached.
    await state.database.execute("INSERT INTO sessions VALUES (?, ?, ?)", (token, session, int(time.time()) + TIMEOUT_SECS))
    await state.cache.set(f"session:{token}", session, ex=CACHED_SECS)
    return JSONResponse({"token": token}, status_code=201)


async def revoke(request: Request) -> Response:
    state, token = request.app.state, token_of(request)
    deleted = await state.database.execute("DELETE FROM sessions WHERE token = ?", (token,))
    await state.cache.delete(f"session:{token}")
    return Response(status_code=204 if deleted.rowcount else 401)


@contextlib.asynccontextmanager
async def connected(app: Starlette):
    app.state.cache = redis.asyncio.from_url(os.environ["REDIS_URL"], decode_responses=True)
    async with aiosqlite.connect(os.environ["DATABASE"], isolation_level=None) as database:
        await database.execute("PRAGMA journal_mode = WAL")
        # Off only while sessions are seeded, which nobody measures.
        await database.execute(f"PRAGMA synchronous = {os.environ['SYNCHRONOUS']}")
        await database.execute(SCHEMA)
        app.state.database = database
        yield
    await app.state.cache.aclose()


ROUTES = [Route("/session", check), Route("/session", create, methods=["POST"]), Route("/session", revoke, methods=["DELETE"])]


def main() -> None:
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    print(f"listening on {listener.getsockname()[1]}", flush=True)
    config = uvicorn.Config(
        Starlette(routes=ROUTES, lifespan=connected), loop="uvloop", http="httptools", access_log=False, log_level="warning"
    )
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()
