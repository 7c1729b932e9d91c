"""One file per benchmark, each a `Benchmark`; what they share (images, sources, limits) lies beside them."""
