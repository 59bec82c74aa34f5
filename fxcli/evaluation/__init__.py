"""Numbers about predictions: numpy in, plain values out. Nothing here knows files, models or torch."""
