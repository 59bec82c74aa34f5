"""Reports: what a run directory holds, as one HTML file. Nothing here imports torch but `pictures`."""
