"""The interface that we compiled is the interface that kubelets speak, to the last field."""

import hashlib
from collections.abc import Iterator

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor

from shim._proto import api_pb2

# SHA-256 of the canonical listing of the CRI's wire facts (runtime.v1 as of cri-api 0.37).
CRI_DIGEST = "a2fdeba9e649f5ce1ebd0978f24e4cd6efd7e5fe7ac06dcb1edd2bdc7646f68f"

SCALARS = {
    value: name.removeprefix("TYPE_").lower()
    for name, value in vars(FieldDescriptor).items()
    if name.startswith("TYPE_")
}


def local(full_name: str) -> str:
    return full_name.removeprefix("runtime.v1.")


def type_and_label(field: FieldDescriptor) -> tuple[str, str]:
    message = field.message_type
    if message is not None and message.GetOptions().map_entry:
        key, value = (type_and_label(message.fields_by_name[name])[0] for name in ("key", "value"))
        return f"map<{key},{value}>", "map"
    if message is not None:
        name = local(message.full_name)
    elif field.enum_type is not None:
        name = local(field.enum_type.full_name)
    else:
        name = SCALARS[field.type]
    if field.is_repeated:
        return name, "many"
    oneof = field.containing_oneof
    return name, "one" if oneof is None else f"oneof:{oneof.name}"


def enum_lines(enum: EnumDescriptor) -> Iterator[str]:
    for value in enum.values:
        yield f"enum\t{local(enum.full_name)}\t{value.name}\t{value.number}\t-\t-"


def message_lines(message: Descriptor) -> Iterator[str]:
    owner = local(message.full_name)
    if not message.fields:
        yield f"field\t{owner}\t-\t-\t-\tempty"
    for field in message.fields:
        kind, label = type_and_label(field)
        deprecated = " deprecated" if field.GetOptions().deprecated else ""
        yield f"field\t{owner}\t{field.name}\t{field.number}\t{kind}\t{label}{deprecated}"
    for enum in message.enum_types:
        yield from enum_lines(enum)
    for nested in message.nested_types:
        if not nested.GetOptions().map_entry:
            yield from message_lines(nested)


def canonical_listing() -> list[str]:
    """One line for each method, enum value and field: kind, owner, name, number, type, label; sorted."""
    file = api_pb2.DESCRIPTOR
    lines = [
        f"method\t{service.name}\t{method.name}\t-\t"
        f"{local(method.input_type.full_name)} -> {local(method.output_type.full_name)}\t"
        + ("server-stream" if method.server_streaming else "unary")
        for service in file.services_by_name.values()
        for method in service.methods
    ]
    for enum in file.enum_types_by_name.values():
        lines += enum_lines(enum)
    for message in file.message_types_by_name.values():
        lines += message_lines(message)
    return sorted(lines)


def test_the_descriptor_is_the_interface() -> None:
    listing = canonical_listing()
    assert len([line for line in listing if line.startswith("method")]) == 43
    assert api_pb2.DESCRIPTOR.package == "runtime.v1"
    assert hashlib.sha256("\n".join(listing).encode()).hexdigest() == CRI_DIGEST


def test_no_method_takes_a_stream_of_requests() -> None:
    methods = [m for service in api_pb2.DESCRIPTOR.services_by_name.values() for m in service.methods]
    assert not [method.name for method in methods if method.client_streaming]
