"""An example plugin: a strategy that empties a cache, a guardrail, an evidence source, a channel.

The cache answers `GET URL` with `{"generation": N, "fill": 0.97}` and `POST URL/flush` by emptying itself,
after which its generation is another one.
"""
