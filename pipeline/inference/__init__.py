"""Batched inference: requests in columns, micro-batches that meet a deadline, fenced predictions.

``request``     rows that ask for a prediction, as Arrow IPC messages
``batcher``     which rows to run now and which to give up (LEAD), from ``service`` times
``model``       one protocol for models; ``manifest`` says what a model file must be, ``onnx`` runs it
``prediction``  the packed row of a prediction; ``progress`` what was already answered
``worker``      the loop that ties them to a lane, a store and a publisher
"""
