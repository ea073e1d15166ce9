"""Traces by OpenTelemetry: a span for each call, below it one for each stage.

The packages are an extra (``pip install 'cri-shim[tracing]'``), loaded only where traces are asked for: by
the configuration, or by OpenTelemetry's own environment variables, which also say how many calls are traced
(``OTEL_TRACES_SAMPLER``) and what is sent along (``OTEL_EXPORTER_OTLP_HEADERS``). A caller's own trace, as a
kubelet sends it in the metadata of a call, goes on in ours (W3C Trace Context). Spans are made when a call
has ended, from the stages that are noted anyway, and sent by a thread of the library.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import shim
from shim.api.calls import Call, Observer
from shim.api.status import code_for, code_name
from shim.errors import FailedPrecondition

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span

log = logging.getLogger(__name__)

_VARIABLES: Final = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_SERVICE: Final = "cri-shim"
_FLUSH_MS: Final = 2000


def is_wanted(endpoint: str) -> bool:
    """Tell whether calls are to be traced: by the configuration's endpoint, or by the environment."""
    if os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return False
    if os.environ.get("OTEL_TRACES_EXPORTER", "otlp") != "otlp":
        return False
    return bool(endpoint) or any(os.environ.get(name) for name in _VARIABLES)


class Tracing:
    """Makes spans of calls.

    Args:
        endpoint: of a collector that takes OTLP over gRPC, such as ``http://127.0.0.1:4317``; empty: that of
            the environment.

    Raises:
        FailedPrecondition: the packages are not installed.
    """

    def __init__(self, endpoint: str) -> None:
        try:
            from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
            from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
        except ImportError as error:
            raise FailedPrecondition(
                f"cannot trace calls: {error}: install what it needs with pip install 'cri-shim[tracing]',"
                " or ask for no traces"
            ) from None
        name = os.environ.get("OTEL_SERVICE_NAME", _SERVICE)
        resource = Resource.create({"service.name": name, "service.version": shim.__version__})
        self._provider: TracerProvider = TracerProvider(resource=resource, shutdown_on_exit=False)
        exporter = OTLPSpanExporter(endpoint=endpoint or None)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer(_SERVICE, shim.__version__)
        self._propagator = TraceContextTextMapPropagator()

    def observer(self) -> Observer:
        """Return what makes spans."""

        def begin(_call: Call) -> Callable[[Call], None]:
            return self._end

        return begin

    def close(self) -> None:
        """Send what is not sent yet, for a short time. Blocking."""
        self._provider.force_flush(_FLUSH_MS)
        self._provider.shutdown()

    def _end(self, call: Call) -> None:
        from opentelemetry.trace import SpanKind, set_span_in_context

        began_ns = call.operation.began_ns
        span = self._tracer.start_span(
            f"runtime.v1/{call.method}",
            context=self._propagator.extract(_carrier(call)),
            kind=SpanKind.SERVER,
            attributes=_attributes(call),
            start_time=began_ns,
        )
        if span.is_recording():
            contexts = [set_span_in_context(span)]
            for stage in call.operation.stages:
                del contexts[stage.depth + 1 :]
                end_ns = stage.began_ns + stage.took_ns if stage.took_ns >= 0 else began_ns + call.took_ns
                child = self._tracer.start_span(stage.name, context=contexts[-1], start_time=stage.began_ns)
                contexts.append(set_span_in_context(child))
                _set_status(child, "stage failed" if stage.failed else "")
                child.end(end_ns)
            _set_status(span, str(call.error) or type(call.error).__name__ if call.error is not None else "")
        span.end(began_ns + call.took_ns)


def _set_status(span: Span, error: str) -> None:
    from opentelemetry.trace import Status, StatusCode

    if error:
        span.set_status(Status(StatusCode.ERROR, error[:1024]))


def _carrier(call: Call) -> dict[str, str]:
    metadata = call.context.invocation_metadata() if call.context is not None else ()
    return {key: value for key, value in metadata or () if isinstance(value, str)}


def _attributes(call: Call) -> dict[str, Any]:
    attributes: dict[str, Any] = {"rpc.system": "grpc", "rpc.method": call.method}
    for name, value in call.fields.items():
        if name != "method":
            attributes[f"cri.{name}"] = value
    if call.error is not None:
        attributes["rpc.grpc.status_code"] = code_for(call.error).value[0]
        attributes["rpc.grpc.status"] = code_name(call.error)
    else:
        attributes["rpc.grpc.status_code"] = 0
    return attributes
