"""What it costs to know who is calling, next to what others pay for it: ``python -m bench.identity``.

Processor time of one core for each token, as the tokens of RS256, ES256 and EdDSA that issuers sign. Contenders take
turns in the same run, so that what else the machine does weighs on all alike.
"""
