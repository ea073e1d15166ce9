from collections.abc import Iterator
from concurrent import futures
from typing import Any

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as otlp
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as service

from shim.api import calls, tracing
from shim.errors import ResourceExhausted
from shim.stages import stage

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"


class Collector(service.TraceServiceServicer):
    def __init__(self) -> None:
        self.requests: list[otlp.ExportTraceServiceRequest] = []

    def Export(self, request: Any, context: Any) -> otlp.ExportTraceServiceResponse:  # noqa: N802
        self.requests.append(request)
        return otlp.ExportTraceServiceResponse()

    def spans(self) -> dict[str, Any]:
        found = [
            s for r in self.requests for rs in r.resource_spans for ss in rs.scope_spans for s in ss.spans
        ]
        return {span.name: span for span in found}


class Context:
    def invocation_metadata(self) -> Any:
        return (("traceparent", f"00-{TRACE}-{PARENT}-01"), ("binary-bin", b"\0"))


@pytest.fixture
def collector() -> Iterator[tuple[Collector, str]]:
    made = Collector()
    server = grpc.server(futures.ThreadPoolExecutor(1))
    service.add_TraceServiceServicer_to_server(made, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield made, f"http://127.0.0.1:{port}"
    server.stop(None).wait()


def test_a_call_becomes_a_span_below_its_callers_with_its_stages_below(
    collector: tuple[Collector, str],
) -> None:
    taken, endpoint = collector
    traces = tracing.Tracing(endpoint)
    with (
        pytest.raises(ResourceExhausted),
        calls.enter("RunPodSandbox", object(), (traces.observer(),), Context()),
        stage("network"),
        stage("address"),
    ):
        raise ResourceExhausted("no address is left")
    traces.close()
    spans = taken.spans()
    call = spans["runtime.v1/RunPodSandbox"]
    assert (call.trace_id.hex(), call.parent_span_id.hex()) == (TRACE, PARENT)
    assert call.status.message == "no address is left"
    attributes = {each.key: each.value for each in call.attributes}
    assert attributes["rpc.grpc.status"].string_value == "RESOURCE_EXHAUSTED"
    assert spans["network"].parent_span_id == call.span_id
    assert spans["address"].parent_span_id == spans["network"].span_id
    assert call.start_time_unix_nano <= spans["network"].start_time_unix_nano
    assert spans["network"].end_time_unix_nano >= spans["address"].end_time_unix_nano


def test_a_call_without_a_trace_begins_one(collector: tuple[Collector, str]) -> None:
    taken, endpoint = collector
    traces = tracing.Tracing(endpoint)
    with calls.enter("Version", object(), (traces.observer(),)):
        pass
    traces.close()
    span = taken.spans()["runtime.v1/Version"]
    assert not span.parent_span_id
    assert span.status.code == 0


@pytest.mark.parametrize(
    ("endpoint", "environment", "wanted"),
    [
        ("", {}, False),
        ("http://127.0.0.1:4317", {}, True),
        ("", {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4317"}, True),
        ("", {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:4317"}, True),
        ("http://127.0.0.1:4317", {"OTEL_SDK_DISABLED": "true"}, False),
        ("http://127.0.0.1:4317", {"OTEL_TRACES_EXPORTER": "none"}, False),
    ],
)
def test_who_asks_for_traces(
    monkeypatch: pytest.MonkeyPatch, endpoint: str, environment: dict[str, str], wanted: bool
) -> None:
    for name in ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_SDK_DISABLED"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert tracing.is_wanted(endpoint) is wanted
