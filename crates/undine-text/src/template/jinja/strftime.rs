//! `strftime_now`: Python's `datetime.now().strftime`, which is that of the C library in its own locale,
//! without a time zone.

use std::fmt::Write;

use jiff::Zoned;
use jiff::civil::Date;

const DAYS: [&str; 7] = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];
const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

/// Digits that a width may ask for.
const WIDTH_MAX: usize = 255;

/// A field: a number with its width and what fills that, or a text.
enum Field {
    Number(i64, usize, char),
    Text(String),
    /// Other fields.
    Format(&'static str),
}

pub fn format(text: &str, now: &Zoned) -> Result<String, String> {
    let mut out = String::new();
    push(text, now, &mut out)?;
    Ok(out)
}

fn push(text: &str, now: &Zoned, out: &mut String) -> Result<(), String> {
    let sure = "a String takes everything";
    let mut rest = text;
    while let Some(at) = rest.find('%') {
        out.push_str(&rest[..at]);
        let directive = &rest[at + 1..];
        let flags = directive.len() - directive.trim_start_matches(['-', '_', '0', '^', '#']).len();
        let (flags, mut after) = directive.split_at(flags);
        let width = super::spec::digits(&mut after)?.map(|width| width.min(WIDTH_MAX));
        after = after.strip_prefix(['E', 'O']).unwrap_or(after);
        let Some(letter) = after.chars().next() else {
            // A sign that says nothing stands for itself.
            out.push_str(&rest[at..]);
            return Ok(());
        };
        let field = field(letter, now);
        let end = at + 1 + (directive.len() - after.len()) + letter.len_utf8();
        let before = out.len();
        match field {
            None => out.push_str(&rest[at..end]),
            Some(Field::Format(format)) => push(format, now, out)?,
            Some(Field::Text(text)) => {
                let width = width.unwrap_or(0);
                write!(out, "{text:>width$}").expect(sure);
            }
            Some(Field::Number(number, digits, fill)) => {
                let fill = match flags.chars().rfind(|flag| matches!(flag, '-' | '_' | '0')) {
                    Some('-') => None,
                    Some('_') => Some(' '),
                    Some(_) => Some('0'),
                    None => Some(fill),
                };
                let width = width.unwrap_or(digits);
                match fill {
                    None => write!(out, "{number}").expect(sure),
                    Some(' ') => write!(out, "{number:>width$}").expect(sure),
                    Some(_) => write!(out, "{number:0>width$}").expect(sure),
                }
            }
        }
        if flags.contains('^') {
            let large = out[before..].to_uppercase();
            out.replace_range(before.., &large);
        } else if flags.contains('#') {
            let text = &out[before..];
            let swapped = if matches!(letter, 'p' | 'Z') { text.to_lowercase() } else { text.to_uppercase() };
            out.replace_range(before.., &swapped);
        }
        rest = &rest[end..];
    }
    out.push_str(rest);
    Ok(())
}

/// The week of the year when weeks begin on a day, counted from Monday.
fn week(date: Date, begins: i64) -> i64 {
    let weekday = i64::from(date.weekday().to_monday_zero_offset());
    let since = (weekday - begins).rem_euclid(7);
    (i64::from(date.day_of_year()) + 6 - since) / 7
}

fn field(letter: char, now: &Zoned) -> Option<Field> {
    let (date, time) = (now.date(), now.time());
    let day = usize::from(date.weekday().to_monday_zero_offset().unsigned_abs());
    let month = usize::from(date.month().unsigned_abs()) - 1;
    let number = |number: i64, width: usize| Some(Field::Number(number, width, '0'));
    let spaced = |number: i64| Some(Field::Number(number, 2, ' '));
    let text = |text: &str| Some(Field::Text(text.to_owned()));
    let hour = i64::from(time.hour());
    let half = if hour % 12 == 0 { 12 } else { hour % 12 };
    let iso = date.iso_week_date();
    match letter {
        'a' => text(&DAYS[day][..3]),
        'A' => text(DAYS[day]),
        'b' | 'h' => text(&MONTHS[month][..3]),
        'B' => text(MONTHS[month]),
        'c' => Some(Field::Format("%a %b %e %H:%M:%S %Y")),
        'C' => number(i64::from(date.year()) / 100, 2),
        'd' => number(i64::from(date.day()), 2),
        'D' | 'x' => Some(Field::Format("%m/%d/%y")),
        'e' => spaced(i64::from(date.day())),
        'f' => number(i64::from(time.subsec_nanosecond()) / 1000, 6),
        'F' => Some(Field::Format("%Y-%m-%d")),
        'g' => number(i64::from(iso.year()) % 100, 2),
        'G' => number(i64::from(iso.year()), 4),
        'H' => number(hour, 2),
        'I' => number(half, 2),
        'j' => number(i64::from(date.day_of_year()), 3),
        'k' => spaced(hour),
        'l' => spaced(half),
        'm' => number(i64::from(date.month()), 2),
        'M' => number(i64::from(time.minute()), 2),
        'n' => text("\n"),
        'p' => text(if hour < 12 { "AM" } else { "PM" }),
        'P' => text(if hour < 12 { "am" } else { "pm" }),
        'r' => Some(Field::Format("%I:%M:%S %p")),
        'R' => Some(Field::Format("%H:%M")),
        's' => number(now.timestamp().as_second(), 1),
        'S' => number(i64::from(time.second()), 2),
        't' => text("\t"),
        'T' | 'X' => Some(Field::Format("%H:%M:%S")),
        'u' => number(day as i64 + 1, 1),
        'U' => number(week(date, 6), 2),
        'V' => number(i64::from(iso.week()), 2),
        'w' => number((day as i64 + 1) % 7, 1),
        'W' => number(week(date, 0), 2),
        'y' => number(i64::from(date.year()) % 100, 2),
        'Y' => number(i64::from(date.year()), 1),
        'z' | 'Z' => text(""),
        '%' => text("%"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use jiff::civil::date;
    use jiff::tz::TimeZone;

    use super::*;

    /// What Python 3.11 writes on Linux for these moments.
    #[test]
    fn moments_as_python_writes_them() {
        let march = date(2024, 3, 5).at(7, 8, 9, 12_345_000);
        let new_year = date(2023, 1, 1).at(12, 0, 0, 0);
        for (moment, format_text, expected) in [
            (march, "%c", "Tue Mar  5 07:08:09 2024"),
            (march, "%x", "03/05/24"),
            (march, "%X", "07:08:09"),
            (march, "%f", "012345"),
            (march, "%j", "065"),
            (march, "%p", "AM"),
            (march, "%-d", "5"),
            (march, "%_d", " 5"),
            (march, "%e", " 5"),
            (march, "%Z|%z", "|"),
            (march, "%G-W%V-%u", "2024-W10-2"),
            (march, "%U %W %w", "09 10 2"),
            (march, "%y %C", "24 20"),
            (march, "%I %l %k", "07  7  7"),
            (march, "%r", "07:08:09 AM"),
            (march, "%R %T %D %F", "07:08 07:08:09 03/05/24 2024-03-05"),
            (march, "%h %B %A", "Mar March Tuesday"),
            (march, "%^a %#p %P", "TUE am am"),
            (march, "%-I:%M", "7:08"),
            (march, "%-j", "65"),
            (march, "%-m/%-d/%Y", "3/5/2024"),
            (march, "%d %b %Y", "05 Mar 2024"),
            (march, "%s", "1709622489"),
            (march, "100%%", "100%"),
            (march, "%Q", "%Q"),
            (march, "%5d %-y", "00005 24"),
            (new_year, "%c", "Sun Jan  1 12:00:00 2023"),
            (new_year, "%x", "01/01/23"),
            (new_year, "%X", "12:00:00"),
            (new_year, "%f", "000000"),
            (new_year, "%j", "001"),
            (new_year, "%p", "PM"),
            (new_year, "%-d", "1"),
            (new_year, "%_d", " 1"),
            (new_year, "%e", " 1"),
            (new_year, "%Z|%z", "|"),
            (new_year, "%G-W%V-%u", "2022-W52-7"),
            (new_year, "%U %W %w", "01 00 0"),
            (new_year, "%y %C", "23 20"),
            (new_year, "%I %l %k", "12 12 12"),
            (new_year, "%r", "12:00:00 PM"),
            (new_year, "%R %T %D %F", "12:00 12:00:00 01/01/23 2023-01-01"),
            (new_year, "%h %B %A", "Jan January Sunday"),
            (new_year, "%^a %#p %P", "SUN pm pm"),
            (new_year, "%-I:%M", "12:00"),
            (new_year, "%-j", "1"),
            (new_year, "%-m/%-d/%Y", "1/1/2023"),
            (new_year, "%d %b %Y", "01 Jan 2023"),
            (new_year, "%s", "1672574400"),
            (new_year, "100%%", "100%"),
            (new_year, "%Q", "%Q"),
            (new_year, "%5d %-y", "00001 23"),
        ] {
            let moment = moment.to_zoned(TimeZone::UTC).unwrap();
            assert_eq!(format(format_text, &moment).unwrap(), expected, "{format_text}");
        }
    }
}
