//! Draws a soak as SVG: memory, file descriptors and threads, sequences, over time. Readable on light and
//! dark pages.

use std::fmt::Write;

use super::flags::Flags;
use super::record::{Record, read_resident};

const WIDTH: f64 = 900.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 880.0;
const PANEL: f64 = 170.0;
const GAP: f64 = 46.0;
const TOP: f64 = 60.0;
/// Points of a line at the most.
const POINTS_MAX: usize = 800;
const STYLE: &str = "
.page{fill:#ffffff}.text{fill:#1f2328}.soft{fill:#59636e}.grid{stroke:#d1d9e0}.band{fill:#eef2f6}
.a{stroke:#0969da}.b{stroke:#1a7f37}.c{stroke:#9aa4af;stroke-dasharray:4 3}
@media (prefers-color-scheme:dark){
.page{fill:#0d1117}.text{fill:#f0f6fc}.soft{fill:#9198a1}.grid{stroke:#3d444d}.band{fill:#161b22}
.a{stroke:#4493f8}.b{stroke:#3fb950}.c{stroke:#656c76}}";

/// A curve: its class, what it is, seconds and values.
struct Curve {
    class: &'static str,
    name: &'static str,
    points: Vec<(f64, f64)>,
}

/// Draws the record beside its file.
pub fn write(flags: &Flags, record: &Record) -> Result<(), String> {
    const MIB: f64 = 1024.0;
    let in_mib = |points: Vec<(f64, f64)>| -> Vec<(f64, f64)> {
        points.into_iter().map(|(second, kib)| (second, kib / MIB)).collect()
    };
    let curve = |class, name, points| Curve { class, name, points };
    let mut memory = vec![
        curve("a", "resident", in_mib(record.line(|sample| sample.resident_kib() as f64))),
        curve("b", "of it not of files", in_mib(record.line(|sample| sample.anonymous_kib as f64))),
    ];
    if let Some(path) = &flags.against {
        memory.push(curve("c", "resident, the other run", in_mib(read_resident(path)?)));
    }
    let places = vec![
        curve("a", "file descriptors", record.line(|sample| sample.fds as f64)),
        curve("b", "threads", record.line(|sample| sample.threads as f64)),
    ];
    let sequences = vec![
        curve("a", "running", record.line(|sample| sample.running)),
        curve("b", "waiting", record.line(|sample| sample.waiting)),
    ];
    let panels =
        [("Memory, MiB", memory), ("File descriptors and threads", places), ("Sequences", sequences)];
    let path = flags.record.with_extension("svg");
    std::fs::write(&path, draw(record.storm(), &panels))
        .map_err(|error| format!("{}: {error}", path.display()))
}

fn draw(storm: (f64, f64), panels: &[(&str, Vec<Curve>)]) -> String {
    let height = TOP + (PANEL + GAP) * panels.len() as f64;
    let seconds = panels.iter().flat_map(|(_, curves)| curves).flat_map(|curve| &curve.points);
    let end = seconds.map(|(second, _)| *second).fold(1.0, f64::max);
    let x = |second: f64| LEFT + (RIGHT - LEFT) * second / end;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\" \
         style=\"font-family:-apple-system,'Segoe UI',Helvetica,Arial,sans-serif\">\n<title>A soak</title>\n<style>{STYLE}</style>\n\
         <rect class=\"page\" width=\"{WIDTH}\" height=\"{height}\" rx=\"6\"/>\n{}\n",
        text("text", 12.0, 28.0, 16, "A soak: many clients that behave badly (grey), then rest")
    );
    for (number, (title, curves)) in panels.iter().enumerate() {
        let top = TOP + (PANEL + GAP) * number as f64;
        let values = curves.iter().flat_map(|curve| &curve.points).map(|(_, value)| *value);
        let full = values.fold(1.0, f64::max) * 1.05;
        let y = |value: f64| top + PANEL - PANEL * value / full;
        let (from, to) = (x(storm.0), x(storm.1));
        let mut add = |part: String| {
            svg += &part;
            svg.push('\n');
        };
        add(format!(
            "<rect class=\"band\" x=\"{from:.1}\" y=\"{top}\" width=\"{:.1}\" height=\"{PANEL}\"/>",
            to - from
        ));
        for part in 0..=4 {
            let value = full * f64::from(part) / 4.0;
            let at = y(value);
            add(format!("<line class=\"grid\" x1=\"{LEFT}\" x2=\"{RIGHT}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>"));
            add(text("soft", 12.0, at + 4.0, 11, &format!("{value:.0}")));
        }
        add(text("text", LEFT, top - 8.0, 13, title));
        for (place, curve) in curves.iter().enumerate() {
            let at = LEFT + 230.0 + 190.0 * place as f64;
            let class = curve.class;
            add(format!(
                "<line class=\"{class}\" x1=\"{at}\" x2=\"{}\" y1=\"{1}\" y2=\"{1}\" stroke-width=\"2\"/>",
                at + 18.0,
                top - 12.0
            ));
            add(text("soft", at + 24.0, top - 8.0, 11, curve.name));
            add(polyline(curve, x, y));
        }
        add(text("soft", LEFT, top + PANEL + 16.0, 11, "0"));
        add(text("soft", RIGHT - 60.0, top + PANEL + 16.0, 11, &format!("{:.1} min", end / 60.0)));
    }
    svg + "</svg>\n"
}

fn text(class: &str, x: f64, y: f64, size: u32, words: &str) -> String {
    format!("<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" font-size=\"{size}\">{words}</text>")
}

/// Of many points, the highest of each few: peaks are what is looked for.
fn polyline(curve: &Curve, x: impl Fn(f64) -> f64, y: impl Fn(f64) -> f64) -> String {
    let mut points = String::new();
    for few in curve.points.chunks(curve.points.len().div_ceil(POINTS_MAX).max(1)) {
        let highest = few.iter().copied().max_by(|a, b| a.1.total_cmp(&b.1)).unwrap_or_default();
        // A string takes what is written to it.
        let _ = write!(points, "{:.1},{:.1} ", x(highest.0), y(highest.1));
    }
    format!(
        "<polyline class=\"{}\" fill=\"none\" stroke-width=\"1.5\" points=\"{}\"/>",
        curve.class,
        points.trim_end()
    )
}
