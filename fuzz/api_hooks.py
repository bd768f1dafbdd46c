"""Credentials for the calls that schemathesis makes, and the few refusals that a JSON Schema cannot foretell.

The service plane is called by the API key, the token plane by a token as bearer, the self plane by the same as a cookie, as a
browser would. Each call of the latter two has a session of its own: some of them end it.
"""

import base64
import itertools
import os
import re
import uuid

import requests
import schemathesis
from schemathesis.openapi.checks import RejectedPositiveData

BASE = os.environ["SESSIOND_URL"]
KEY = os.environ["SESSIOND_KEY"]
# Nobody listens there, and that is known at once.
RECEIVER = "http://127.0.0.1:9/events"

CONNECTION = requests.Session()
CONNECTION.headers["Authorization"] = f"Bearer {KEY}"
NUMBERS = itertools.count()


def start_session():
    """A token of a user who has a few sessions, and whom no other call is about."""
    user_id = f"holder-{next(NUMBERS) // 4}"
    answer = CONNECTION.post(f"{BASE}/v1/sessions", json={"user_id": user_id}, timeout=10)
    answer.raise_for_status()
    return answer.json()["token"]


@schemathesis.auth(refresh_interval=None)
class Credentials:
    def get(self, case, context):
        return KEY if plane(case) == "service" else start_session()

    def set(self, case, data, context):
        if case.operation.path == "/v1/me/sessions/{id}" and next(NUMBERS) % 2:
            # Nobody would guess an id of their own.
            own_id = base64.urlsafe_b64decode(data.removeprefix("sst_"))[:16]
            case.path_parameters["id"] = str(uuid.UUID(bytes=own_id))
        if plane(case) == "self":
            case.cookies["__Host-session"] = data
            case.headers["Sec-Fetch-Site"] = "same-origin"
            case.headers.pop("Authorization", None)
        else:
            case.headers["Authorization"] = f"Bearer {data}"
            case.cookies.pop("__Host-session", None)


def plane(case):
    return case.operation.tags[0]


@schemathesis.hook
def map_case(context, case):
    """Makes calls that fit the schema be about something that is there; the others stay as they are."""
    parameters, query, body = case.path_parameters or {}, case.query or {}, case.body
    if is_whole_number(parameters.get("n")):
        parameters["n"] = str(int(parameters["n"]) % 2)
    if isinstance(query.get("app"), str) and re.fullmatch("[a-z]+", query["app"]):
        query["app"] = "default"
    # No call may reach another machine, whatever URL was thought up.
    if "/webhooks" in case.operation.path and isinstance(body, dict) and isinstance(body.get("url"), str):
        if len(body["url"]) <= 2000 and re.match("https?:", body["url"], re.IGNORECASE):
            body["url"] = RECEIVER
    return case


def is_whole_number(text):
    return isinstance(text, str) and re.fullmatch("0|-?[1-9][0-9]{0,18}", text)


# What is asked of a field beyond its schema: the field, and what the refusal says of it.
BEYOND_SCHEMA = [
    # What is configured.
    ("tier", "is not a configured tier"),
    ("app", "is not a configured app"),
    # What only this server can have made.
    ("cursor", "must be a next_cursor of this list"),
    ("after", "must be the id of an event"),
    ("until", "must be the id of an event"),
    # What there is already.
    ("app", "has 20 webhooks"),
    ("path", "leads into a list"),
    # What schemathesis thinks up for this header whatever the schema says.
    ("If-Match", "must be * or ETags"),
    # The time.
    ("authenticated_at", "is in the future"),
    # What goes with what.
    ("authenticated_at", "needs a user"),
    ("tier", "is stored for a user"),
    ("end_ids", "are a user's"),
    ("body", "must be an object"),
    ("reason", "is not a person's to give"),
    ("anonymous", "cannot be combined with user_id"),
    ("limit", "is for pages"),
    ("order", "is for pages"),
]


@schemathesis.hook
def filter_failure(context, failure, case, response):
    """Whether it is one: a refusal of what fits the schema is none if all that it names is beyond schemas."""
    if not isinstance(failure, RejectedPositiveData) or response.status_code != 422:
        return True
    if case.method == "HEAD":
        # It names nothing; the same GET does.
        return "app" not in (case.query or {})
    problem = response.json()
    if problem["code"] == "idempotency_key_reused":
        return False
    return not all(is_beyond_schema(**error) for error in problem["errors"])


def is_beyond_schema(field, message):
    # To a schema 1.0 is an integer.
    if re.match(r"invalid type: floating point `-?[0-9.e+]*\.0`", message):
        return True
    return any(field == name and message.startswith(words) for name, words in BEYOND_SCHEMA)
