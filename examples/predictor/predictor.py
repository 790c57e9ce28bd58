"""Answers with the version that holds an alias, and follows it: no request is lost when it moves."""

import json
import os
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import countersign_client
import mlflow.pyfunc
import pandas as pd

URI, FOLDER = os.environ["MODEL_URI"], os.environ.get("MODEL_FOLDER", "models")
active = [(None, None)]  # the version and its model, which change together


def follow() -> None:
    while True:
        try:
            for found in countersign_client.follow(URI):
                pulled = countersign_client.pull(URI, f"{FOLDER}/{found.version}", version=found.version, force=True)
                model = mlflow.pyfunc.load_model(str(pulled.folder))
                active[0] = found.version, model  # who is being answered keeps the one it has
        except Exception as error:  # noqa: BLE001  # whatever it is: go on with what there is, and try again
            print(f"Still serving version {active[0][0]}: {error}", flush=True)
            time.sleep(5)


class Predictor(BaseHTTPRequestHandler):
    def do_GET(self) -> None:  # for a readiness probe
        self.send_response(200 if active[0][1] else 503)
        self.end_headers()

    def do_POST(self) -> None:
        version, model = active[0]
        rows = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))))["dataframe_records"]
        answer = (
            {"version": version, "predictions": pd.Series(model.predict(pd.DataFrame(rows))).tolist()} if model else {}
        )
        self.send_response(200 if model else 503)
        self.end_headers()
        self.wfile.write(json.dumps(answer).encode())


threading.Thread(target=follow, daemon=True).start()
ThreadingHTTPServer(
    (os.environ.get("HOST", "127.0.0.1"), int(os.environ.get("PORT", "8000"))), Predictor
).serve_forever()
