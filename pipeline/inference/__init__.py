"""Batched inference: requests in columns, micro-batches that meet a deadline, fenced predictions.

``request``     rows that ask for a prediction, as Arrow IPC messages (``ipc``)
``batcher``     which rows to run now and which to give up (LEAD); ``service`` learns the times
``model``       one protocol for models; ``manifest`` says what a file must be, ``onnx`` runs it
``device``      a model on its own thread
``prediction``  the packed row of a prediction; ``progress`` what was already answered
``reader``      messages to rows, many at a time; ``pending`` what is not yet committed
``flights``     answers on their way: published, acknowledged, committed; ``delivery`` what leaves
``worker``      the loop that ties them to a lane, a store and a publisher
"""
