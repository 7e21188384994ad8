"""tf.Example inputs of Classify, Regress and MultiInference.

A context is merged into each example by putting its bytes in front: protobuf merges concatenated
messages, and of a map key seen twice the later wins, so an example's own feature beats the
context's, as in TensorFlow Serving (servables/tensorflow/util.cc).
"""

from __future__ import annotations

from gateway.codecs.pb import tfs_pb2
from gateway.domain.errors import InvalidRequest


def serialized_examples(source: tfs_pb2.Input) -> list[bytes]:
    """Each example of `source` as a serialized tf.Example, its context merged in.

    Raises:
        InvalidRequest: there is none (`Input is empty.`).
    """
    context = b""
    if source.WhichOneof("kind") == "example_list_with_context":
        context = source.example_list_with_context.context.SerializeToString()
        examples = source.example_list_with_context.examples
    else:
        examples = source.example_list.examples
    if not examples:
        raise InvalidRequest("Input is empty.", reason="input_empty")
    return [context + example.SerializeToString() for example in examples]
