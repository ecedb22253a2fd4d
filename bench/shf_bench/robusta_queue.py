"""Robusta's queue of incoming alerts, from its package on PyPI, behind an HTTP server; a process of its own.

It runs with the interpreter of a virtual environment that has that package. As Robusta's own handler does, it
gives each alert to the queue and answers 200 whatever became of it (`robusta/runner/web.py` and
`robusta/utils/task_queue.py` of robusta-cli 0.10.25). The queue's length and number of workers are its own
defaults. A task is the same restart that the fabric orders.

    python robusta_queue.py PORT WORLD
"""

import json
import sys
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from robusta.core.model.env_vars import NUM_EVENT_THREADS
from robusta.utils.task_queue import QueueMetrics, TaskQueue


def main() -> None:
    """Serve until the process is ended."""
    port, world = int(sys.argv[1]), sys.argv[2]
    queue = TaskQueue(name="alerts_queue", num_workers=NUM_EVENT_THREADS, metrics=QueueMetrics())

    def restart(service: str) -> None:
        request = urllib.request.Request(f"{world}/services/{service}/restart", data=b"", method="POST")  # noqa: S310
        urllib.request.urlopen(request, timeout=60).read()  # noqa: S310 - our own stub

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            for alert in body["alerts"]:
                queue.add_task(restart, alert["labels"]["service"])
            self._answer()

        def do_GET(self) -> None:
            self._answer()

        def _answer(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, format: str, *args: object) -> None:
            """Nothing."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 1024  # its connections are not what is measured

    Server(("127.0.0.1", port), Handler).serve_forever()


if __name__ == "__main__":
    main()
