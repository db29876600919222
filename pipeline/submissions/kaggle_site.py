"""Kaggle as a site to submit to, through its own client in a process that can be stopped."""

import contextlib
import json
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from pipeline.errors import PipelineError
from pipeline.paths import PROJECT

CALL_SECONDS = 90.0  # an answer that has not come by then does not come
UPLOAD_SECONDS = 900.0
PAGE = 100  # submissions looked through for one that was made before


class UnclearAnswer(PipelineError):
    """No clear answer: whether the site has taken a submission is not known."""


@dataclass(frozen=True)
class Submission:
    """A submission as the site lists it. status: pending, complete or error."""

    ref: str
    status: str
    message: str
    error: str
    public: str
    private: str
    time: str
    file: str
    bytes: int


@dataclass(frozen=True)
class Today:
    """Submissions of today (UTC) by the site's count."""

    made: int
    left: int


class KaggleSite:
    """A competition on Kaggle. Every call raises PipelineError with what the site said.

    The client's process starts with the first call and ends with `close` or the with-block; a call that
    takes too long ends it as well.
    """

    def __init__(
        self, competition: str, call_seconds: float = CALL_SECONDS, upload_seconds: float = UPLOAD_SECONDS
    ) -> None:
        self.competition, self.call_seconds, self.upload_seconds = competition, call_seconds, upload_seconds
        self._process: subprocess.Popen[str] | None = None
        self._client_errors: IO[str] | None = None

    def __enter__(self) -> "KaggleSite":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the client's process."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None
        if self._client_errors is not None:
            self._client_errors.close()
            self._client_errors = None

    def submissions(self) -> list[Submission]:
        """The newest submissions, newest first."""
        answer = self._call({"do": "list", "count": PAGE}, self.call_seconds)
        return [Submission(**item) for item in answer]

    def today(self) -> Today | None:
        """How many submissions were made today; None where the site does not say (no team yet)."""
        answer = self._call({"do": "limits"}, self.call_seconds)
        return Today(int(answer["today"]), int(answer["left"])) if any(answer.values()) else None

    def submit(self, path: Path, message: str) -> str:
        """Upload a file; returns the submission's number."""
        return str(
            self._call({"do": "submit", "file": str(path), "message": message}, self.upload_seconds)["ref"]
        )

    def submit_code(self, kernel: str, version: int, file_name: str, message: str) -> str:
        """Submit the output file of a notebook's version (kernel: owner/name)."""
        request = {
            "do": "submit_code",
            "file": file_name,
            "message": message,
            "kernel": kernel,
            "version": version,
        }
        return str(self._call(request, self.call_seconds)["ref"])

    def _call(self, request: dict[str, Any], seconds: float) -> Any:
        request["competition"] = self.competition
        process = self._start()
        assert process.stdin is not None and process.stdout is not None
        with contextlib.suppress(BrokenPipeError):  # it died; there will be no answer
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.flush()
        with ThreadPoolExecutor(1) as reader:
            line = reader.submit(process.stdout.readline)
            try:
                text = line.result(timeout=seconds)
            except TimeoutError:
                process.kill()  # which ends the reader's wait
                text = None
        if text is None:
            self.close()
            raise UnclearAnswer(f"kaggle: no answer within {seconds:g} s")
        if not text.endswith("\n"):
            raise self._died()
        answer = json.loads(text)
        if "ok" in answer:
            return answer["ok"]
        error = UnclearAnswer if answer["fault"] == "unclear" else PipelineError
        raise error(_explain(answer, self.competition))

    def _start(self) -> "subprocess.Popen[str]":
        if self._process is None:
            self._client_errors = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115
            self._process = subprocess.Popen(
                [sys.executable, "-m", "pipeline.submissions.kaggle_call"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._client_errors,
                text=True,
                cwd=PROJECT,
            )
        return self._process

    def _died(self) -> PipelineError:
        """What to raise when the client's process ended without an answer."""
        assert self._client_errors is not None
        self._client_errors.seek(0)
        reason = (self._client_errors.read().strip().splitlines() or ["no reason given"])[-1]
        self.close()
        if reason.startswith("ModuleNotFoundError"):
            return PipelineError(f"the kaggle client cannot be loaded ({reason}); make setup")
        return UnclearAnswer(f"kaggle: its client failed: {reason[:300]}")


def _explain(answer: dict[str, str], competition: str) -> str:
    kind, reason = answer["fault"], answer["reason"]
    if kind == "credentials":
        return f"kaggle: not let in ({reason}); check your credentials, and that you joined '{competition}'"
    if kind == "limit":
        return f"kaggle: too many requests or submissions ({reason}); try again later"
    if kind == "upload":
        return f"kaggle: the upload failed ({reason}); nothing was submitted, run the same command again"
    if kind == "refused":
        return f"kaggle: refused ({reason})"
    return f"kaggle: no clear answer ({reason})"
