//! The roofline of a profile: how much arithmetic each kernel does a byte, how fast it does it, and what of the device forbids more.

use std::fmt::Write as _;

use super::kernels::BANDWIDTH;
use super::profile::Report;

/// Ceilings of an H200's arithmetic, operations a second (two a multiply-add), by 132 multiprocessors at 1.755 GHz: 4,096
/// multiply-adds of int8 a cycle in tensor cores (the figure that NVIDIA gives for `wgmma`; `mma.sync` reaches less), and 64
/// `dp4a` of four (CUDA C++ Programming Guide, arithmetic throughput).
const CEILINGS: [(&str, f64); 2] =
    [("int8 tensor cores", 2.0 * 4096.0 * 132.0 * 1.755e9), ("dp4a", 2.0 * 4.0 * 64.0 * 132.0 * 1.755e9)];
/// Size, and margins for the labels of the axes.
const WIDTH: f64 = 1080.0;
const HEIGHT: f64 = 640.0;
const LEFT: f64 = 74.0;
const RIGHT: f64 = 250.0;
const TOP: f64 = 44.0;
const BOTTOM: f64 = 52.0;
/// Powers of ten of operations a byte and of operations a second.
const X: (f64, f64) = (-1.0, 4.0);
const Y: (f64, f64) = (9.0, 15.5);
/// Colours of the steps, distinguishable by those who confuse red and green.
const COLOURS: [&str; 6] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"];

/// Where a point lies, if it has both numbers.
fn place(intensity: f64, rate: f64) -> Option<(f64, f64)> {
    if intensity <= 0.0 || rate <= 0.0 {
        return None;
    }
    let share = |value: f64, (low, high): (f64, f64)| ((value.log10() - low) / (high - low)).clamp(0.0, 1.0);
    let x = LEFT + share(intensity, X) * (WIDTH - LEFT - RIGHT);
    let y = HEIGHT - BOTTOM - share(rate, Y) * (HEIGHT - TOP - BOTTOM);
    Some((x, y))
}

/// What a step is called in the legend.
fn title(report: &Report) -> String {
    let kind = if report.prefill { "prefill" } else { "decode" };
    let rows = if report.rows == 1 { "1 row".to_owned() } else { format!("{} rows", report.rows) };
    format!("{} {kind}, {rows}", report.spec)
}

/// The picture of some profiles, one colour each.
pub fn svg(reports: &[Report]) -> String {
    let device = reports.first().map_or("", |report| report.device.as_str());
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#ffffff\"/>\n\
         <text x=\"{LEFT}\" y=\"24\" font-size=\"16\">Roofline: kernels on {}</text>\n",
        escape(device)
    );
    axes(&mut out);
    ceilings(&mut out);
    let mut labels = Vec::new();
    for (i, report) in reports.iter().enumerate() {
        points(&mut out, report, (i, COLOURS[i % COLOURS.len()]), &mut labels);
    }
    for (x, y, words) in labels {
        text(&mut out, (x, y), ("start", &words));
    }
    out.push_str("</svg>\n");
    out
}

fn line(out: &mut String, ((x1, y1), (x2, y2)): ((f64, f64), (f64, f64)), stroke: &str) {
    // Writing to a string cannot fail.
    let _ = writeln!(out, "<path d=\"M{x1:.1} {y1:.1}L{x2:.1} {y2:.1}\" stroke=\"{stroke}\" fill=\"none\"/>");
}

fn text(out: &mut String, (x, y): (f64, f64), (anchor, words): (&str, &str)) {
    let words = escape(words);
    let _ = writeln!(out, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{words}</text>");
}

fn axes(out: &mut String) {
    let (right, bottom) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
    for power in X.0 as i32..=X.1 as i32 {
        if let Some((x, _)) = place(10f64.powi(power), 1.0) {
            line(out, ((x, TOP), (x, bottom)), "#e4e4e4");
            text(out, (x, bottom + 18.0), ("middle", &format!("{}", 10f64.powi(power))));
        }
    }
    for (power, name) in (Y.0 as i32..).zip(["1 G", "10 G", "100 G", "1 T", "10 T", "100 T", "1,000 T"]) {
        if let Some((_, y)) = place(1.0, 10f64.powi(power)) {
            line(out, ((LEFT, y), (right, y)), "#e4e4e4");
            text(out, (LEFT - 8.0, y + 4.0), ("end", name));
        }
    }
    text(out, ((LEFT + right) / 2.0, HEIGHT - 12.0), ("middle", "operations a byte"));
    text(out, (LEFT, TOP - 6.0), ("start", "operations a second"));
}

fn ceilings(out: &mut String) {
    let (lowest, highest) = (10f64.powf(X.0), 10f64.powf(X.1));
    let top = CEILINGS[0].1;
    if let (Some(from), Some(to)) = (place(lowest, lowest * BANDWIDTH), place(top / BANDWIDTH, top)) {
        line(out, (from, to), "#333333");
        text(out, (from.0 + 8.0, from.1 - 26.0), ("start", &format!("{:.1} TB/s", BANDWIDTH / 1e12)));
    }
    for (name, rate) in CEILINGS {
        if let (Some(from), Some(to)) = (place(rate / BANDWIDTH, rate), place(highest, rate)) {
            line(out, (from, to), "#333333");
            text(out, (to.0 + 6.0, to.1 + 4.0), ("start", &format!("{name}, {:.0} TOP/s", rate / 1e12)));
        }
    }
}

/// A label's left end, its base line, and its words.
type Label = (f64, f64, String);

/// Puts a label where none is in its way: beside its point or as far below as need be.
fn put_label(labels: &mut Vec<Label>, (x, y, words): Label) {
    // About what a letter of this size takes.
    let width = |words: &str| 6.6 * words.len() as f64;
    let is_free = |at: f64| {
        labels.iter().all(|(x2, y2, other)| {
            (at - y2).abs() >= 12.0 || x + width(&words) < *x2 || *x2 + width(other) < x
        })
    };
    let mut at = y;
    while !is_free(at) && at < HEIGHT {
        at += 3.0;
    }
    labels.push((x, at, words));
}

fn points(out: &mut String, report: &Report, (index, colour): (usize, &str), labels: &mut Vec<Label>) {
    let y = HEIGHT - BOTTOM - 18.0 * (COLOURS.len() - index.min(COLOURS.len())) as f64;
    let x = WIDTH - RIGHT + 14.0;
    let _ = writeln!(out, "<circle cx=\"{x:.1}\" cy=\"{:.1}\" r=\"5\" fill=\"{colour}\"/>", y - 4.0);
    text(out, (x + 10.0, y), ("start", &title(report)));
    for row in &report.operations {
        let Some((x, y)) = place(row.intensity, row.gflop_s * 1e9) else { continue };
        // The area is the share of the step's time.
        let radius = 3.0 + 12.0 * row.share.max(0.0).sqrt();
        let _ = writeln!(
            out,
            "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{radius:.1}\" fill=\"{colour}\" fill-opacity=\"0.55\" stroke=\"{colour}\">\
             <title>{}: {}, {:.2} µs, {:.1} % of the step, {:.0} GB/s, {:.0} GOP/s</title></circle>",
            escape(&title(report)),
            escape(&row.name),
            row.us,
            row.share * 100.0,
            row.gb_s,
            row.gflop_s
        );
        if row.share >= 0.1 {
            put_label(labels, (x + radius + 2.0, y + 4.0, row.name.clone()));
        }
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_roof_bends_where_bandwidth_meets_arithmetic() {
        let top = CEILINGS[0].1;
        let knee = place(top / BANDWIDTH, top).unwrap();
        let (under, over) = (place(1.0, BANDWIDTH).unwrap(), place(2000.0, top).unwrap());
        assert!(under.0 < knee.0 && knee.0 < over.0);
        assert!(under.1 > knee.1 && (knee.1 - over.1).abs() < 1e-9);
        assert_eq!(place(0.0, 1.0), None);
    }

    #[test]
    fn every_kernel_that_computes_is_in_the_picture() {
        let text = std::fs::read_to_string(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/bench/results/h200-profile-qwen2.5-1.5b-prefill.json"
        ));
        let report: Report = serde_json::from_str(&text.unwrap()).unwrap();
        let n = report.operations.iter().filter(|row| row.flops > 0).count();
        let picture = svg(&[report]);
        assert!(n > 4 && picture.matches("<title>").count() == n, "{n}");
        assert!(picture.contains("gemm_gate_up_swiglu") && !picture.contains("NaN"));
    }

    #[test]
    fn labels_make_way() {
        let mut labels = Vec::new();
        for _ in 0..3 {
            put_label(&mut labels, (10.0, 20.0, "gemm".to_owned()));
        }
        put_label(&mut labels, (300.0, 20.0, "far".to_owned()));
        let places: Vec<f64> = labels.iter().map(|label| label.1).collect();
        assert_eq!(places, [20.0, 32.0, 44.0, 20.0]);
    }

    #[test]
    fn names_cannot_break_the_picture() {
        assert_eq!(escape("a<b>&\"c\""), "a&lt;b&gt;&amp;&quot;c&quot;");
    }
}
