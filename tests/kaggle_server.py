"""A server on loopback that speaks Kaggle's submission protocol, and fails in the ways a test asks for."""

import base64
import json
import re
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

SERVICE = "/api/v1/competitions.CompetitionApiService/"
USER, KEY = "someone", "their-key"
Fault = Callable[["Handler"], bool]  # does the answering itself when it returns True


class Handler(BaseHTTPRequestHandler):
    server: "KaggleServer"
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def reply(self, status: int, body: Any = None) -> None:
        data = json.dumps(body if body is not None else {}).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(data)
        self.close_connection = True

    def drop(self) -> None:
        """End the connection without an answer."""
        self.close_connection = True
        self.connection.close()

    def read(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def handle_call(self, name: str) -> None:
        self.server.calls.append(name)
        faults = self.server.faults.get(name, [])
        if faults and faults.pop(0)(self):
            return
        self.server.answer(name, self)

    def do_POST(self) -> None:
        # The client speaks to a proxy, so the path is a whole address.
        path = re.sub(r"^http://localhost", "", self.path)
        assert path.startswith(SERVICE), path
        expected = "Basic " + base64.b64encode(f"{USER}:{KEY}".encode()).decode()
        if self.headers.get("Authorization") != expected:
            self.read()
            self.reply(401, {"code": 401, "message": "Unauthenticated"})
            self.server.calls.append("unauthenticated")
            return
        self.handle_call(path.removeprefix(SERVICE))

    def do_PUT(self) -> None:
        self.handle_call("PUT")


class KaggleServer(ThreadingHTTPServer):
    """`calls` in order; `faults`: name of a call -> what to do instead, once each, in order."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.calls: list[str] = []
        self.faults: dict[str, list[Fault]] = {}
        self.submissions: list[dict[str, Any]] = []
        self.uploaded: bytes = b""
        self.left = 5
        self.states = ["COMPLETE"]  # what a submission is at each look; the last stays
        self.thread = threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True)
        self.thread.start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, *_: Any) -> None:
        """A client that went away is what some tests are about."""

    def stop(self) -> None:
        self.shutdown()
        self.server_close()
        self.thread.join()

    def take(self, request: dict[str, Any], name: str) -> dict[str, Any]:
        """Have a submission, as CreateSubmission does."""
        made = {
            "ref": 1000 + len(self.submissions),
            "date": "2026-11-22T10:00:00.000Z",
            "description": request.get("submissionDescription", ""),
            "fileName": name,
            "totalBytes": len(self.uploaded),
            "publicScore": "0.71234",
            "privateScore": "",
            "status": "PENDING",
        }
        self.submissions.insert(0, made)
        return made

    def answer(self, name: str, handler: Handler) -> None:
        request = json.loads(handler.read() or b"{}") if name != "PUT" else {}
        if name == "StartSubmissionUpload":
            self.name = request["fileName"]
            handler.reply(200, {"token": "t", "createUrl": "http://localhost/upload/t"})
        elif name == "PUT":
            self.uploaded = handler.read()
            handler.reply(200)
        elif name in ("CreateSubmission", "CreateCodeSubmission"):
            made = self.take(request, request.get("fileName") or self.name)
            self.last_request = request
            handler.reply(200, {"message": "Successfully submitted", "ref": made["ref"]})
        elif name == "ListSubmissions":
            state = self.states.pop(0) if len(self.states) > 1 else self.states[0]
            shown = [item | {"status": state} for item in self.submissions]
            for item in shown:
                if state != "COMPLETE":
                    item["publicScore"] = ""
                if state == "ERROR":
                    item["errorDescription"] = "Submission has 2 rows, expected 5"
            handler.reply(200, {"submissions": shown})
        elif name == "GetSubmissionLimits":
            made_today = len(self.submissions)
            handler.reply(200, {"numToday": made_today, "numTotal": 7, "numAllowedNow": self.left})
        else:
            handler.reply(404, {"code": 404, "message": f"no {name}"})


def status(code: int, message: str) -> Fault:
    """Answer with an error."""

    def fault(handler: Handler) -> bool:
        handler.read()
        handler.reply(code, {"code": code, "message": message})
        return True

    return fault


def drop(handler: Handler) -> bool:
    """Read the request and go away."""
    handler.read()
    handler.drop()
    return True


def drop_half_way(handler: Handler) -> bool:
    """Go away after half of a file."""
    handler.rfile.read(int(handler.headers["Content-Length"]) // 2)
    handler.drop()
    return True


def take_and_drop(handler: Handler) -> bool:
    """Have the submission, and go away before saying so."""
    handler.server.take(json.loads(handler.read()), handler.server.name)
    handler.drop()
    return True


def take_and_hang(seconds: float) -> Fault:
    """Have the submission, and say nothing for long."""

    def fault(handler: Handler) -> bool:
        handler.server.take(json.loads(handler.read()), handler.server.name)
        threading.Event().wait(seconds)
        handler.drop()
        return True

    return fault
