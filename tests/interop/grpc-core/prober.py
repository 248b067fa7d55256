"""A gRPC C-core xDS client of many targets; the bootstrap comes from GRPC_XDS_BOOTSTRAP_CONFIG. ../grpc-go/main.go
speaks the same, and tells what a probe is.

Commands: `probe` (calls the targets as their probes say, and answers with a list of tallies by target:
`{"answers": {backend: calls}, "failures": {"CODE": calls}}`) and `close` (ends the channels that `probe` opened).
"""

import collections
import concurrent.futures

import grpc

import lines

WORKERS = 16
"""Targets that are probed at a time."""
PATIENCE = 5
"""How long one call may take, in seconds."""
ENOUGH = 2000
"""Calls after which a backend that is warmed up for is given up, and so it is after a hundred failures in a row."""


class Prober:
    def __init__(self):
        self.channels = []
        self.pool = concurrent.futures.ThreadPoolExecutor(WORKERS)

    def probe(self, targets):
        names = [target["target"] for target in targets]
        return dict(zip(names, self.pool.map(self.probe_target, targets)))

    def probe_target(self, target):
        channel = grpc.insecure_channel(f"xds:///{target['target']}")
        self.channels.append(channel)
        return [tally(channel, **probe) for probe in target["probes"]]

    def close(self):
        for channel in self.channels:
            channel.close()
        self.channels.clear()


def tally(channel, path, metadata, warm, count):
    call = channel.unary_unary(path)
    metadata = [tuple(pair) for pair in metadata]
    warm_up(call, metadata, warm)
    answers, failures = collections.Counter(), collections.Counter()
    for _ in range(count):
        try:
            answers[call(b"ping", timeout=PATIENCE, metadata=metadata).decode()] += 1
        except grpc.RpcError as error:
            failures[error.code().name] += 1
            if not warm:
                break
    return {"answers": answers, "failures": failures}


def warm_up(call, metadata, warm):
    missing, failed = set(warm), 0
    for _ in range(ENOUGH):
        if not missing or failed == 100:
            return
        try:
            missing.discard(call(b"ping", timeout=PATIENCE, metadata=metadata).decode())
            failed = 0
        except grpc.RpcError:
            failed += 1


def main():
    prober = Prober()
    lines.serve({}, {"probe": prober.probe, "close": prober.close})


if __name__ == "__main__":
    main()
