//! Plots as SVG, drawn by hand: bars with intervals, and curves over a logarithmic axis.
