"""A gRPC C-core client of `mesh.interop.Echo`: calls the target named on its command line, `xds:///name` included (the
bootstrap comes from GRPC_XDS_BOOTSTRAP_CONFIG), and tells which servers answered.

Commands: `call` (so many calls, one after another), `start` and `stop` (calls without a pause between the two). `call`
and `stop` answer with a tally: `{"answers": {server: calls}, "failures": {"CODE: message": calls}}`.
"""

import collections
import sys
import threading

import grpc

import lines


class Client:
    def __init__(self, target):
        self.unary = grpc.insecure_channel(target).unary_unary("/mesh.interop.Echo/Unary")
        self.stopping = threading.Event()
        self.load = None

    def tally(self, timeout, go_on):
        answers, failures = collections.Counter(), collections.Counter()
        while go_on():
            try:
                _, call = self.unary.with_call(b"ping", timeout=timeout)
                answers[dict(call.initial_metadata())["echo-server"]] += 1
            except grpc.RpcError as error:
                failures[f"{error.code().name}: {error.details()}"] += 1
        return {"answers": answers, "failures": failures}

    def call(self, count, timeout=10):
        turns = iter(range(count))
        return self.tally(timeout, lambda: next(turns, None) is not None)

    def start(self, timeout=10):
        self.stopping.clear()
        self.load = LoadThread(lambda: self.tally(timeout, lambda: not self.stopping.is_set()))
        self.load.start()

    def stop(self):
        self.stopping.set()
        self.load.join()
        return self.load.result


class LoadThread(threading.Thread):
    """A thread whose target's return value can be read; a daemon, so that the end of the input ends the program."""

    def __init__(self, work):
        super().__init__(daemon=True)
        self.work = work
        self.result = None

    def run(self):
        self.result = self.work()


def main():
    client = Client(sys.argv[1])
    lines.serve({}, {"call": client.call, "start": client.start, "stop": client.stop})


if __name__ == "__main__":
    main()
