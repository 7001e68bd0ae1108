"""The letters of array axes, the same in every file: docstrings, shape comments and einsums.

A capital is a size, the small letter its axis in an einsum. A shape comment `[B,T,D]` is read with
this table; a file whose arrays have an axis of their own says so in its header.

    rows      B  text rows: prompts while sampling, one row per prompt
              R  media rows; text row b uses media row b // (B // R)
              G  responses to a prompt (rollouts; branches of a row [prompt | response 1 | ...])
    places    T  tokens that ask (queries)
              S  tokens that are attended to (keys); places of the response cache
              P  patches of a media row
              M  vision tokens of a media row, P / 4
              E  ECGs of a media row
              C  leads of an ECG; its T are time steps
    channels  D  width of the decoder
              W  width of a tower: vision or ECG
              F  hidden units of an MLP
              V  vocabulary
    heads     K  key-value heads
              N  query heads that share a key-value head
              H  query heads, K * N (a tower has N = 1, so H = K)
              h  channels of a head
    stacks    L  layers
              J  layers that DeepStack adds vision features to
              X  the three of query, key and value, in one kernel
"""
