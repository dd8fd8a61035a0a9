"""The style of every picture. Colours live here only."""

#: Okabe and Ito's colours, told apart by the colour-blind.
BLUE, ORANGE, GREEN, GREY, BLACK = "#0072B2", "#D55E00", "#009E73", "#888888", "#000000"
