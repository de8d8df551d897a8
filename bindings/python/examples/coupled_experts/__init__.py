"""A small language model whose experts are coupled by hypergraphs."""
