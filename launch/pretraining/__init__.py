"""How the tiny base model is made: tokenizer, corpus, training, and the bands it must meet."""
