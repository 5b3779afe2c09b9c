"""A rollout server for small models on a CPU: SGLang's HTTP protocol, continuous batching.

Start it with `python -m engine.servers.embedded --serve PORT=MODEL_DIR`. Several models may share
one process, each on its own port with its own weights; one thread does it all.

Differences from SGLang that a client may notice, all of them 400 answers: token ids outside the
vocabulary, a number of images that differs from the number of placeholders (if both are given),
images as paths or URLs, and sampling features that no rollout needs (penalties, grammars,
log-prob tables).
"""
