"""A reader of CSDS (gRFC A40) with gRPC's own generated client and messages, which asks the server at the address on its command
line what an xDS client there holds.

Commands: `fetch` (unary) and `stream` (so many requests on one stream) answer with what the protobuf runtime makes of each
response in JSON, all resources read to their last extension; `contents` says whether they are asked for.
"""

import sys

import grpc
from envoy.config.cluster.v3 import cluster_pb2  # noqa: F401: these are what the runtime reads resources by
from envoy.config.endpoint.v3 import endpoint_pb2  # noqa: F401
from envoy.config.listener.v3 import listener_pb2  # noqa: F401
from envoy.config.route.v3 import route_pb2  # noqa: F401
from envoy.extensions.filters.http.router.v3 import router_pb2  # noqa: F401
from envoy.extensions.filters.network.http_connection_manager.v3 import (  # noqa: F401
    http_connection_manager_pb2,
)
from envoy.service.status.v3 import csds_pb2, csds_pb2_grpc
from google.protobuf.json_format import MessageToDict

import lines


def main():
    stub = csds_pb2_grpc.ClientStatusDiscoveryServiceStub(grpc.insecure_channel(sys.argv[1]))

    def request(contents):
        return csds_pb2.ClientStatusRequest(exclude_resource_contents=not contents)

    def fetch(contents=True, timeout=10):
        return MessageToDict(stub.FetchClientStatus(request(contents), timeout=timeout))

    def stream(count, contents=True, timeout=10):
        requests = (request(contents) for _ in range(count))
        return [MessageToDict(response) for response in stub.StreamClientStatus(requests, timeout=timeout)]

    lines.serve({}, {"fetch": fetch, "stream": stream})


if __name__ == "__main__":
    main()
