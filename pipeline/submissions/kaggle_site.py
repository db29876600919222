"""Kaggle as a site to submit to, through its own client in a process that can be stopped."""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import PipelineError
from pipeline.paths import PROJECT

CALL_SECONDS = 90.0  # an answer that has not come by then does not come
UPLOAD_SECONDS = 900.0
PAGE = 100  # submissions looked through for one that was made before


class Unclear(PipelineError):
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
class KaggleSite:
    """A competition on Kaggle. Every call raises PipelineError with what the site said."""

    competition: str
    call_seconds: float = CALL_SECONDS
    upload_seconds: float = UPLOAD_SECONDS

    def submissions(self) -> list[Submission]:
        """The newest submissions, newest first."""
        found = self._call({"do": "list", "count": PAGE}, self.call_seconds)
        return [Submission(**item) for item in found]

    def left_today(self) -> int | None:
        """How many submissions are left today; None where the site does not say (no team yet)."""
        found = self._call({"do": "limits"}, self.call_seconds)
        return int(found["left"]) if any(found.values()) else None

    def submit(self, path: Path, message: str) -> str:
        """Upload a file; returns the submission's number."""
        return str(
            self._call({"do": "submit", "file": str(path), "message": message}, self.upload_seconds)["ref"]
        )

    def submit_code(self, kernel: str, version: int, file_name: str, message: str) -> str:
        """Submit the output file of a notebook's version (kernel: owner/name)."""
        request = {"do": "submit_code", "file": file_name, "message": message, "kernel": kernel,
                   "version": version}  # fmt: skip
        return str(self._call(request, self.call_seconds)["ref"])

    def _call(self, request: dict[str, Any], seconds: float) -> Any:
        request["competition"] = self.competition
        try:
            done = subprocess.run(
                [sys.executable, "-m", "pipeline.submissions.kaggle_call"], input=json.dumps(request),
                capture_output=True, text=True, timeout=seconds, cwd=PROJECT, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise Unclear(f"kaggle: no answer within {seconds:g} s") from None
        try:
            answer = json.loads(done.stdout.splitlines()[-1])
        except (IndexError, ValueError):
            said = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]
            if "No module named 'kaggle'" in said:
                raise PipelineError("the kaggle client is not installed; make setup") from None
            raise Unclear(f"kaggle: its client failed: {said[:300]}") from None
        if "ok" in answer:
            return answer["ok"]
        raise (Unclear if answer["fault"] == "unclear" else PipelineError)(_explain(answer, self.competition))


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
