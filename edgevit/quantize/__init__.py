"""Int8 that keeps its accuracy: what to quantize, with which ranges, decided outside any vendor tool."""
