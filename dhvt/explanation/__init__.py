"""Maps of what in an image an answer depends on. Start reading at :mod:`dhvt.explanation.explainer`."""
