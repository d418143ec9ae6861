//! The picture: memory against context, a line for each number of users.

use std::fmt::Write;

use super::devices::Device;
use super::memory::{Demand, Load};
use super::subject::Subject;
use crate::format::{Bytes, grouped};

/// Width and height of the picture, and its margins: left, right, top, bottom.
const SIZE: (f64, f64) = (760.0, 440.0);
const MARGINS: (f64, f64, f64, f64) = (70.0, 110.0, 50.0, 50.0);
/// Shortest context drawn.
const CONTEXT_MIN: u32 = 1024;
/// Points of a line.
const POINTS: u32 = 48;
/// Numbers of users, besides the one asked for.
const USERS: [u32; 4] = [1, 4, 16, 64];
/// Colours of the lines: those of Okabe and Ito, which all eyes can tell apart.
const COLOURS: [&str; 5] = ["#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7"];
/// Sizes of memory that are marked, in GiB.
const MARKS: [f64; 10] = [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0];
/// Bytes in a GiB.
const GIB: f64 = (1_u64 << 30) as f64;

/// Both axes, logarithmic.
struct Axes {
    context: (f64, f64),
    bytes: (f64, f64),
}

impl Axes {
    fn x(&self, context: f64) -> f64 {
        let part = (context / self.context.0).ln() / (self.context.1 / self.context.0).ln();
        MARGINS.0 + part * (SIZE.0 - MARGINS.0 - MARGINS.1)
    }

    fn y(&self, bytes: f64) -> f64 {
        let part = (bytes / self.bytes.0).ln() / (self.bytes.1 / self.bytes.0).ln();
        SIZE.1 - MARGINS.3 - part * (SIZE.1 - MARGINS.2 - MARGINS.3)
    }
}

/// One line: the users, and memory at each context.
struct Line {
    users: u32,
    points: Vec<(f64, f64)>,
}

/// An SVG document, with the memory of a device, if one is meant, as a line of its own.
pub fn draw(subject: &Subject, load: Load, device: Option<&Device>) -> String {
    let longest = u32::try_from(subject.config.context_max).unwrap_or(u32::MAX).max(2);
    let shortest = CONTEXT_MIN.min(longest / 2);
    let mut users: Vec<u32> = USERS.into_iter().chain([load.users]).collect();
    users.sort_unstable();
    users.dedup();
    let ratio = f64::from(longest) / f64::from(shortest);
    let contexts: Vec<u32> = (0..=POINTS)
        .map(|i| (f64::from(shortest) * ratio.powf(f64::from(i) / f64::from(POINTS))).round() as u32)
        .collect();
    let lines: Vec<Line> = users
        .into_iter()
        .map(|users| {
            let bytes = |context| {
                let load = Load { users, context, ..load };
                Demand::new(&subject.config, &subject.chosen.types, load).total_bytes as f64
            };
            Line { users, points: contexts.iter().map(|&c| (f64::from(c), bytes(c))).collect() }
        })
        .collect();
    let limit = device.map(|device| device.usable_bytes as f64);
    let all = || lines.iter().flat_map(|line| &line.points).map(|point| point.1).chain(limit);
    let (least, most) = (all().fold(f64::MAX, f64::min), all().fold(0.0, f64::max));
    let axes = Axes { context: (f64::from(shortest), f64::from(longest)), bytes: (least / 1.2, most * 1.2) };
    let mut svg = String::new();
    let title = format!("{}, {}, K/V in {}", subject.name, subject.chosen.name, load.kv.name());
    let drawn = write_grid(&mut svg, &axes, &title)
        .and_then(|()| write_limit(&mut svg, &axes, device))
        .and_then(|()| write_lines(&mut svg, &axes, &lines));
    drawn.expect("writing to a String cannot fail");
    svg
}

fn write_grid(svg: &mut String, axes: &Axes, title: &str) -> std::fmt::Result {
    let (width, height) = SIZE;
    let (left, right, bottom) = (MARGINS.0, width - MARGINS.1, height - MARGINS.3);
    writeln!(
        svg,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>"
    )?;
    let title = escape(title);
    writeln!(svg, "<text x=\"{left}\" y=\"25\" font-size=\"15\">{title}</text>")?;
    writeln!(
        svg,
        "<text x=\"{left}\" y=\"42\" fill=\"#555\">memory in GiB (logarithmic), all contexts full</text>"
    )?;
    for mark in MARKS.into_iter().filter(|mark| (axes.bytes.0..axes.bytes.1).contains(&(mark * GIB))) {
        let y = axes.y(mark * GIB);
        writeln!(svg, "<path d=\"M{left} {y:.1}H{right}\" stroke=\"#ddd\"/>")?;
        writeln!(
            svg,
            "<text x=\"{:.0}\" y=\"{:.1}\" text-anchor=\"end\">{mark}</text>",
            left - 8.0,
            y + 4.0
        )?;
    }
    let mut context = axes.context.0;
    while context <= axes.context.1 {
        let x = axes.x(context);
        let shown = grouped(context as u64);
        writeln!(svg, "<path d=\"M{x:.1} {}V{bottom}\" stroke=\"#eee\"/>", MARGINS.2)?;
        writeln!(svg, "<text x=\"{x:.1}\" y=\"{:.0}\" text-anchor=\"middle\">{shown}</text>", bottom + 18.0)?;
        context *= 2.0;
    }
    writeln!(
        svg,
        "<text x=\"{:.0}\" y=\"{:.0}\" text-anchor=\"middle\">tokens of context (logarithmic)</text>",
        (left + right) / 2.0,
        height - 12.0
    )
}

/// What there is of memory for models, above which nothing fits.
fn write_limit(svg: &mut String, axes: &Axes, device: Option<&Device>) -> std::fmt::Result {
    let Some(device) = device else { return Ok(()) };
    let (left, right, y) = (MARGINS.0, SIZE.0 - MARGINS.1, axes.y(device.usable_bytes as f64));
    writeln!(
        svg,
        "<path d=\"M{left} {y:.1}H{right}\" stroke=\"#000\" stroke-width=\"1.5\" stroke-dasharray=\"6 4\"/>\n\
         <text x=\"{:.0}\" y=\"{:.1}\">{}: {}</text>",
        left + 6.0,
        y - 5.0,
        escape(&device.name),
        Bytes(device.usable_bytes)
    )
}

fn write_lines(svg: &mut String, axes: &Axes, lines: &[Line]) -> std::fmt::Result {
    let right = SIZE.0 - MARGINS.1;
    for (line, colour) in lines.iter().zip(COLOURS) {
        let points: Vec<_> = line
            .points
            .iter()
            .map(|&(context, bytes)| format!("{:.1},{:.1}", axes.x(context), axes.y(bytes)))
            .collect();
        let points = points.join(" ");
        writeln!(
            svg,
            "<polyline points=\"{points}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>"
        )?;
        let last = line.points.last().map_or(0.0, |point| point.1);
        let users = if line.users == 1 { "1 user".to_owned() } else { format!("{} users", line.users) };
        writeln!(
            svg,
            "<text x=\"{:.0}\" y=\"{:.1}\" fill=\"{colour}\">{users}</text>",
            right + 8.0,
            axes.y(last) + 4.0
        )?;
    }
    writeln!(svg, "</svg>")
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use undine_cpu::KvType;

    use super::super::devices;
    use super::*;

    #[test]
    fn a_line_for_each_number_of_users_stays_inside() {
        let subject = Subject::find(Some("LFM2-1.2B"), None).expect("a known shape");
        let load = Load { users: 7, context: 4096, kv: KvType::F16, threads: 2, tower: None };
        let svg = draw(&subject, load, None);
        assert_eq!(svg.matches("<polyline").count(), 5);
        assert_eq!(svg.matches("(logarithmic)").count(), 2);
        assert!(!svg.contains("stroke-dasharray"));
        // The line of a device is inside, however much memory it has.
        for name in ["Raspberry Pi 5 8GB", "DGX H100 (8x H100 SXM 80GB)"] {
            let device = devices::all().iter().find(|device| device.name == name).expect("in the file");
            let svg = draw(&subject, load, Some(device));
            let line = svg.lines().find(|line| line.contains("stroke-dasharray")).expect("a line");
            let y = line.split(['H', ' ']).nth(2).expect("a place").parse::<f64>().expect("a number");
            assert!((MARGINS.2..=SIZE.1 - MARGINS.3).contains(&y), "{name}: {line}");
            assert!(svg.contains(&format!(">{name}: ")), "{name}");
        }
        for users in ["1 user<", "4 users<", "7 users<", "16 users<", "64 users<"] {
            assert!(svg.contains(users), "{users}");
        }
        let points = svg.split("points=\"").skip(1).filter_map(|rest| rest.split('"').next());
        for point in points.flat_map(|points| points.split(' ')) {
            let (x, y) = point.split_once(',').expect("two numbers");
            let (x, y): (f64, f64) = (x.parse().expect("a number"), y.parse().expect("a number"));
            assert!((MARGINS.0 - 0.1..=SIZE.0 - MARGINS.1 + 0.1).contains(&x), "{point}");
            assert!((MARGINS.2..=SIZE.1 - MARGINS.3).contains(&y), "{point}");
        }
    }
}
