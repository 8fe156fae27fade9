"""One style for all figures and pages: legible at the size of a README, safe for the colour-blind, light and dark."""
