//! Plots as SVG: bars with intervals, and curves over logarithmic axes.
//!
//! Two kinds are drawn, and they are few lines each, so there is no library behind them.

use std::fmt::Write as _;

use crate::stats::Estimate;

/// Width of every plot.
const WIDTH: f64 = 900.0;
/// Colours of series, readable on white.
const COLOURS: [&str; 10] = [
    "#1f6f8b", "#c1440e", "#4b7f2c", "#7a3e9d", "#b8860b", "#3b4cc0", "#8c2d4f", "#555555",
    "#e377c2", "#17becf",
];

/// Of bars that do not stand out.
const GREY: &str = "#9a9a9a";

/// A bar.
#[derive(Clone, Debug, PartialEq)]
pub struct Bar {
    /// What stands beside it.
    pub name: String,
    /// Its length, and the interval around its end.
    pub estimate: Estimate,
    /// Whether it has the colour that the eye goes to.
    pub stands_out: bool,
    /// Whether a gap sets it apart from the one before it.
    pub is_apart: bool,
}

/// Curves over logarithmic axes.
#[derive(Clone, Debug, PartialEq)]
pub struct Curves<'a> {
    /// What stands above.
    pub title: &'a str,
    /// What the horizontal axis counts.
    pub x: &'a str,
    /// What the vertical axis counts.
    pub y: &'a str,
    /// Where the vertical axis begins; what is less, such as 0, is drawn there.
    pub floor: f64,
    /// The curves.
    pub series: Vec<Series>,
}

/// A curve.
#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    /// What the legend calls it.
    pub name: String,
    /// Its points, from left to right. Both coordinates are positive.
    pub points: Vec<(f64, f64)>,
}

/// Draws bars from 0, one below the other, with a line at 1.
pub fn bars(title: &str, bars: &[Bar]) -> String {
    const LEFT: f64 = 360.0;
    const ROW: f64 = 22.0;
    let longest = bars.iter().map(|bar| bar.estimate.high).fold(1.0, f64::max) * 1.05;
    let x = |value: f64| LEFT + value / longest * (WIDTH - LEFT - 60.0);
    let gaps = bars.iter().filter(|bar| bar.is_apart).count();
    let mut svg = Svg::new(title, 60.0 + ROW * count(bars.len()) + ROW / 2.0 * count(gaps));
    let mut y = 40.0;
    for bar in bars {
        let Estimate { low, middle, high } = bar.estimate;
        y += if bar.is_apart { ROW / 2.0 } else { 0.0 };
        let (centre, colour) = (y + ROW / 2.0, if bar.stands_out { COLOURS[0] } else { GREY });
        svg.text(LEFT - 8.0, centre + 4.0, "end", &bar.name);
        svg.rectangle((LEFT, y + 4.0), (x(middle) - LEFT, ROW - 8.0), colour);
        svg.line((x(low), centre), (x(high), centre), "#000000", 1.5);
        for end in [low, high] {
            svg.line((x(end), centre - 4.0), (x(end), centre + 4.0), "#000000", 1.5);
        }
        svg.text(x(high) + 6.0, centre + 4.0, "start", &format!("{middle:.3}"));
        y += ROW;
    }
    svg.line((x(1.0), 36.0), (x(1.0), y + 4.0), "#999999", 1.0);
    svg.finish()
}

/// Draws curves.
pub fn curves(plot: &Curves<'_>) -> String {
    let axes = Axes::new(plot);
    let mut svg = Svg::new(plot.title, BOTTOM + 50.0);
    axes.draw(&mut svg, plot);
    // The first is drawn last, over the others.
    for (index, series) in plot.series.iter().enumerate().rev() {
        let colour = COLOURS[index % COLOURS.len()];
        let at = |(x, y): &(f64, f64)| (axes.x(*x), axes.y(y.max(plot.floor)));
        let points: Vec<(f64, f64)> = series.points.iter().map(at).collect();
        for pair in points.windows(2) {
            svg.line(pair[0], pair[1], colour, 2.0);
        }
        for point in &points {
            svg.circle(*point, colour);
        }
        let y = 50.0 + 20.0 * count(index);
        svg.rectangle((RIGHT + 15.0, y - 9.0), (12.0, 12.0), colour);
        svg.text(RIGHT + 33.0, y + 2.0, "start", &series.name);
    }
    svg.finish()
}

/// The area of curves; the legend is to the right of it.
const LEFT: f64 = 80.0;
const RIGHT: f64 = 590.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 400.0;

/// Whole powers of ten that hold all points, as exponents.
struct Axes {
    x: (i32, i32),
    y: (i32, i32),
}

impl Axes {
    fn new(plot: &Curves<'_>) -> Self {
        let points = || plot.series.iter().flat_map(|series| &series.points);
        let x = exponents(points().map(|(x, _)| *x));
        let y = exponents(points().map(|(_, y)| y.max(plot.floor)).chain([plot.floor]));
        Self { x, y }
    }

    fn x(&self, value: f64) -> f64 {
        LEFT + part(value, self.x) * (RIGHT - LEFT)
    }

    fn y(&self, value: f64) -> f64 {
        BOTTOM - part(value, self.y) * (BOTTOM - TOP)
    }

    fn draw(&self, svg: &mut Svg, plot: &Curves<'_>) {
        for exponent in self.x.0..=self.x.1 {
            let (x, text) = (self.x(10_f64.powi(exponent)), power(exponent));
            svg.line((x, TOP), (x, BOTTOM), "#dddddd", 1.0);
            svg.text(x, BOTTOM + 18.0, "middle", &text);
        }
        for exponent in self.y.0..=self.y.1 {
            let (y, text) = (self.y(10_f64.powi(exponent)), power(exponent));
            svg.line((LEFT, y), (RIGHT, y), "#dddddd", 1.0);
            svg.text(LEFT - 8.0, y + 4.0, "end", &text);
        }
        svg.text(f64::midpoint(LEFT, RIGHT), BOTTOM + 38.0, "middle", plot.x);
        svg.text(LEFT + 6.0, TOP + 14.0, "start", plot.y);
    }
}

#[expect(clippy::cast_possible_truncation, reason = "exponents of what benches measure are small")]
fn exponents(values: impl Iterator<Item = f64>) -> (i32, i32) {
    let logs: Vec<f64> = values.map(f64::log10).filter(|log| log.is_finite()).collect();
    let lowest = logs.iter().copied().fold(f64::INFINITY, f64::min).floor();
    let highest = logs.iter().copied().fold(f64::NEG_INFINITY, f64::max).ceil();
    if lowest.is_finite() {
        (lowest as i32, (highest as i32).max(lowest as i32 + 1))
    } else {
        (0, 1)
    }
}

/// Where a value lies between two powers of ten, from 0 to 1.
fn part(value: f64, (lowest, highest): (i32, i32)) -> f64 {
    (value.log10() - f64::from(lowest)) / f64::from(highest - lowest)
}

fn power(exponent: i32) -> String {
    let value = 10_f64.powi(exponent);
    let digits = usize::try_from(-exponent).unwrap_or(0);
    format!("{value:.digits$}")
}

/// A number of rows.
fn count(rows: usize) -> f64 {
    u32::try_from(rows).map_or(f64::MAX, f64::from)
}

/// An image that is being drawn.
struct Svg {
    text: String,
}

impl Svg {
    fn new(title: &str, height: f64) -> Self {
        let text = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
             font-family=\"sans-serif\" font-size=\"13\">\n\
             <rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#ffffff\"/>\n\
             <text x=\"{}\" y=\"20\" text-anchor=\"middle\" font-size=\"15\">{}</text>\n",
            WIDTH / 2.0,
            escape(title)
        );
        Self { text }
    }

    fn line(&mut self, from: (f64, f64), to: (f64, f64), colour: &str, width: f64) {
        let _ = writeln!(
            self.text,
            "<line x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\" stroke=\"{colour}\" \
             stroke-width=\"{width}\"/>",
            from.0, from.1, to.0, to.1
        );
    }

    fn rectangle(&mut self, at: (f64, f64), size: (f64, f64), colour: &str) {
        let _ = writeln!(
            self.text,
            "<rect x=\"{:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{:.1}\" fill=\"{colour}\"/>",
            at.0, at.1, size.0, size.1
        );
    }

    fn circle(&mut self, at: (f64, f64), colour: &str) {
        let _ = writeln!(
            self.text,
            "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"3.5\" fill=\"{colour}\"/>",
            at.0, at.1
        );
    }

    fn text(&mut self, x: f64, y: f64, anchor: &str, text: &str) {
        let _ = writeln!(
            self.text,
            "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" fill=\"#222222\">{}</text>",
            escape(text)
        );
    }

    fn finish(mut self) -> String {
        self.text.push_str("</svg>\n");
        self.text
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_are_drawn_with_their_names_and_ratios() {
        let estimate = Estimate { low: 0.9, middle: 1.1, high: 1.2 };
        let name = "x & y".to_owned();
        let svg = bars("a < b", &[Bar { name, estimate, stands_out: true, is_apart: false }]);
        assert!(svg.contains("a &lt; b") && svg.contains("x &amp; y") && svg.contains("1.100"));
        assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
    }

    #[test]
    fn axes_hold_all_points_and_zeros_lie_on_the_floor() {
        let series = vec![Series { name: "s".to_owned(), points: vec![(20.0, 0.0), (1e6, 300.0)] }];
        let plot = Curves { title: "t", x: "x", y: "y", floor: 0.1, series };
        let axes = Axes::new(&plot);
        assert_eq!((axes.x, axes.y), ((1, 6), (-1, 3)));
        assert!(curves(&plot).contains("cy=\"400.0\""));
    }
}
