"""A procedural world whose truth is known exactly: scenes, their captions, questions, pictures."""
