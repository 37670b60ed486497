"""Sample from language models in the client, reproducibly."""
