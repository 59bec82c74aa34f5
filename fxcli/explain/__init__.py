"""Why a class: Grad-CAM maps and their pictures."""
