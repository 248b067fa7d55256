"""A gRPC C-core server of `mesh.interop.Echo`: raw bytes in and out, steered call by call through request metadata.

    echo-delay-ms        wait so long before the first answer
    echo-count           answers per request message in the streaming methods (default 1)
    echo-status          end with this code, after the answers of a stream and in place of the answer of a unary call
    echo-message         the text that goes with it, percent-encoded
    echo-details-bin     sent back as grpc-status-details-bin
    echo-fail-attempts   echo-status applies only while grpc-previous-rpc-attempts is below this number
    echo-trailer         key=value to send back as trailing metadata; may be repeated

Each call is answered with `echo-server` (the name of the server), `echo-attempt` (grpc-previous-rpc-attempts as it came)
and `echo-timeout-ms` (what was left of the deadline) as headers of the first answer and again as trailers. A failing unary
call sends no headers, so that a client may retry it.

Commands: `report` (by server, the calls started, answered, cancelled by the client, and expired before either), `drain`
(GOAWAY, then `grace` seconds for the calls in flight), `start` (a drained server listens on its port again).
"""

import argparse
import concurrent.futures
import threading
import urllib.parse

import grpc

import lines


class Call:
    """One call, from its metadata to its end; whoever ends it first says how it is counted."""

    def __init__(self, server, context):
        self.server = server
        self.context = context
        self.metadata = {}
        self.trailers = []
        for key, value in context.invocation_metadata():
            if key == "echo-trailer":
                self.trailers.append(tuple(value.split("=", 1)))
            self.metadata[key] = value
        self.facts = [("echo-server", server.name), ("echo-attempt", self.metadata.get("grpc-previous-rpc-attempts", "0"))]
        left = context.time_remaining()
        if left is not None and left < 1e9:
            self.facts.append(("echo-timeout-ms", str(int(left * 1000))))
        self.ended = threading.Event()
        self.settled = False
        self.headers_sent = False
        server.count("started")
        if not context.add_callback(self._on_end):
            self._on_end()

    def _on_end(self):
        left = self.context.time_remaining()
        self._settle("expired" if left is not None and left <= 0 else "cancelled")
        self.ended.set()

    def _settle(self, how):
        with self.server.lock:
            if self.settled:
                return
            self.settled = True
            self.server.counts[how] += 1

    def number(self, key, default=0):
        return int(self.metadata.get(key, default))

    def wait(self):
        """False when the call ended during the delay."""
        return not self.ended.wait(self.number("echo-delay-ms") / 1000)

    def answer(self, message):
        if not self.headers_sent:
            self.headers_sent = True
            self.context.send_initial_metadata(self.facts)
        return message

    def status(self):
        attempt = self.number("grpc-previous-rpc-attempts")
        spared = "echo-fail-attempts" in self.metadata and attempt >= self.number("echo-fail-attempts")
        return 0 if spared else self.number("echo-status")

    def finish(self):
        """Sets the trailers and, where one is asked for, the status; raises when that status is a failure."""
        trailers = self.facts + self.trailers
        if "echo-details-bin" in self.metadata:
            trailers.append(("grpc-status-details-bin", self.metadata["echo-details-bin"]))
        self.context.set_trailing_metadata(trailers)
        code = self.status()
        self._settle("answered")
        if code:
            by_number = {status.value[0]: status for status in grpc.StatusCode}
            self.context.abort(by_number[code], urllib.parse.unquote(self.metadata.get("echo-message", "")))


class Server:
    """One listening port of the process."""

    def __init__(self, name, port, credentials, options):
        self.name = name
        self.port = port
        self.credentials = credentials
        self.options = options
        self.lock = threading.Lock()
        self.counts = {"started": 0, "answered": 0, "cancelled": 0, "expired": 0}
        self.start()

    def start(self):
        pool = concurrent.futures.ThreadPoolExecutor(max_workers=128)
        self.grpc = grpc.server(pool, options=[("grpc.so_reuseport", 0), *self.options])
        self.grpc.add_generic_rpc_handlers((self.handlers(),))
        address = f"127.0.0.1:{self.port}"
        if self.credentials:
            self.port = self.grpc.add_secure_port(address, self.credentials)
        else:
            self.port = self.grpc.add_insecure_port(address)
        self.grpc.start()

    def handlers(self):
        return grpc.method_handlers_generic_handler(
            "mesh.interop.Echo",
            {
                "Unary": grpc.unary_unary_rpc_method_handler(self.unary),
                "ClientStream": grpc.stream_unary_rpc_method_handler(self.client_stream),
                "ServerStream": grpc.unary_stream_rpc_method_handler(self.server_stream),
                "Both": grpc.stream_stream_rpc_method_handler(self.both),
            },
        )

    def count(self, what):
        with self.lock:
            self.counts[what] += 1

    def unary(self, request, context):
        return self.client_stream([request], context)

    def client_stream(self, requests, context):
        call = Call(self, context)
        joined = b"".join(requests)
        if not call.wait():
            return b""
        call.finish()
        return call.answer(joined)

    def server_stream(self, request, context):
        return self.both([request], context)

    def both(self, requests, context):
        call = Call(self, context)
        if not call.wait():
            return
        for request in requests:
            for _ in range(call.number("echo-count", 1)):
                yield call.answer(request)
        call.finish()


def pair(text):
    key, value = text.split("=", 1)
    return key, int(value)


def read(path):
    with open(path, "rb") as file:
        return file.read()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--listen", type=pair, action="append", required=True, metavar="NAME=PORT", help="0: any port")
    parser.add_argument("--option", type=pair, action="append", default=[], metavar="KEY=NUMBER", help="channel argument")
    parser.add_argument("--tls", nargs=3, metavar=("CERT", "KEY", "CLIENT_CA"), help="PEM files; clients must have one too")
    args = parser.parse_args()

    credentials = None
    if args.tls:
        cert, key, ca = map(read, args.tls)
        credentials = grpc.ssl_server_credentials([(key, cert)], ca, require_client_auth=True)
    servers = {name: Server(name, port, credentials, args.option) for name, port in args.listen}

    def report():
        return {name: dict(server.counts) for name, server in servers.items()}

    def drain(server, grace):
        servers[server].grpc.stop(grace)

    def start(server):
        servers[server].start()

    ready = {name: server.port for name, server in servers.items()}
    lines.serve(ready, {"report": report, "drain": drain, "start": start})
    for server in servers.values():
        server.grpc.stop(None)


if __name__ == "__main__":
    main()
