"""The page and its two addresses, on Flask."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from edgevit.errors import EdgevitError
from edgevit.trying.answers import Answers

MOST_BYTES = 32 * 2**20  # of a picture


def application(answers: Answers) -> Any:
    """A WSGI application. Raises EdgevitError where Flask is absent."""
    try:
        from flask import Flask, jsonify, render_template_string, request
    except ImportError:
        raise EdgevitError(
            "cannot show the page",
            "Flask is not installed",
            'Run "pip install flask", or pip install edgevit[try]',
        ) from None
    app = Flask(__name__)
    app.config["MAX_CONTENT_LENGTH"] = MOST_BYTES
    template = Path(__file__).with_name("page.html").read_text(encoding="utf-8")

    @app.get("/")
    def page() -> str:
        model = answers.run.manifest.model
        gives = ", ".join(f"{each.name} ({each.kind})" for each in model.gives.each)
        shown = {
            "model": model.name,
            "gives": gives if model.gives.classes is None else f"{model.num_classes} classes",
        }
        return render_template_string(template, **shown, choices=answers.choices, left_out=answers.left_out)

    @app.post("/answers")
    def said() -> Any:
        sent, keys = request.files.get("picture"), request.form.getlist("artefact")
        known = [key for key in keys if key in answers.sources]
        if sent is None or not known:
            return jsonify({"error": "no picture" if sent is None else "no artefact is chosen"}), 400
        with tempfile.NamedTemporaryFile(prefix="edgevit-try-", suffix=".picture") as file:
            sent.save(file.name)
            picture = Path(file.name)
            try:
                found = [answers.answer(picture, key) for key in known]
                return jsonify({"answers": found, "attention": answers.attention(picture)})
            except EdgevitError as error:
                return jsonify({"error": f"{error.what}: {error.why}"}), 400

    @app.errorhandler(413)
    def too_large(_: Any) -> Any:
        return jsonify({"error": f"the picture is larger than {MOST_BYTES >> 20} MiB"}), 413

    @app.after_request
    def only_here(response: Any) -> Any:
        # Nothing is fetched from elsewhere, and no other site may frame the page.
        response.headers["Content-Security-Policy"] = (
            "default-src 'self'; img-src 'self' data: blob:; style-src 'unsafe-inline'; "
            "script-src 'unsafe-inline'; frame-ancestors 'none'"
        )
        response.headers["X-Content-Type-Options"] = "nosniff"
        return response

    return app
