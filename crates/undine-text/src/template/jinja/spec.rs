//! The part after the colon of a format: `>10`, `,.2f`, `08.3f`.

use super::number::{self, Num};
use super::print;
use super::value::{Missing, Value};

/// Characters that a width or a precision may ask for: the standard library takes no more.
const SIZE_MAX: usize = u16::MAX as usize;

#[derive(Clone, Debug)]
pub struct Spec {
    pub fill: char,
    /// `<`, `>`, `^` or `=`; by kind if none is given.
    pub align: Option<char>,
    /// `-`, `+` or a space.
    pub sign: char,
    pub alternate: bool,
    pub zero: bool,
    pub width: usize,
    /// Between groups of digits.
    pub separator: Option<char>,
    pub precision: Option<usize>,
    pub kind: Option<char>,
}

impl Default for Spec {
    fn default() -> Self {
        Self {
            fill: ' ',
            align: None,
            sign: '-',
            alternate: false,
            zero: false,
            width: 0,
            separator: None,
            precision: None,
            kind: None,
        }
    }
}

pub fn size(number: i64) -> Result<usize, String> {
    let size = usize::try_from(number).ok().filter(|&size| size <= SIZE_MAX);
    size.ok_or_else(|| format!("a width or precision is between 0 and {SIZE_MAX}, not {number}"))
}

/// Takes a number from the front of a text.
pub fn digits(text: &mut &str) -> Result<Option<usize>, String> {
    let length = text.bytes().take_while(u8::is_ascii_digit).count();
    let (digits, rest) = text.split_at(length);
    *text = rest;
    if length == 0 {
        return Ok(None);
    }
    size(digits.parse().unwrap_or(i64::MAX)).map(Some)
}

fn parse(text: &str) -> Result<Spec, String> {
    let wrong = || format!("Invalid format specifier '{text}'");
    let mut spec = Spec::default();
    let mut signs = text.chars();
    let is_align = |sign: &char| matches!(sign, '<' | '>' | '^' | '=');
    let (first, second) = (signs.next(), signs.next());
    let mut rest = text;
    if let (Some(fill), Some(align)) = (first, second.filter(is_align)) {
        (spec.fill, spec.align) = (fill, Some(align));
        rest = &text[fill.len_utf8() + align.len_utf8()..];
    } else if let Some(align) = first.filter(is_align) {
        spec.align = Some(align);
        rest = &text[1..];
    }
    if let Some(sign) = rest.chars().next().filter(|sign| matches!(sign, '+' | '-' | ' ')) {
        spec.sign = sign;
        rest = &rest[1..];
    }
    for (sign, flag) in [('#', &mut spec.alternate), ('0', &mut spec.zero)] {
        if let Some(after) = rest.strip_prefix(sign) {
            *flag = true;
            rest = after;
        }
    }
    spec.width = digits(&mut rest)?.unwrap_or(0);
    if let Some(separator) = rest.chars().next().filter(|sign| matches!(sign, ',' | '_')) {
        spec.separator = Some(separator);
        rest = &rest[1..];
    }
    if let Some(after) = rest.strip_prefix('.') {
        rest = after;
        spec.precision = Some(digits(&mut rest)?.ok_or("Format specifier missing precision")?);
    }
    let mut kinds = rest.chars();
    spec.kind = kinds.next();
    if kinds.next().is_some() { Err(wrong()) } else { Ok(spec) }
}

/// `format(value, spec)`.
pub fn push_formatted(value: &Value, text: &str, out: &mut String) -> Result<(), String> {
    if text.is_empty() {
        return print::push_str(value, out);
    }
    let spec = parse(text)?;
    let unknown = || {
        format!(
            "Unknown format code '{}' for object of type '{}'",
            spec.kind.unwrap_or(' '),
            value.type_name()
        )
    };
    match value {
        Value::Text(text) | Value::Markup(text) => match (spec.kind, spec.align, spec.sign) {
            (_, Some('='), _) => Err("'=' alignment not allowed in string format specifier".to_owned()),
            (None | Some('s'), _, '-') if spec.separator.is_none() => push_text(text, &spec, out),
            _ => Err(unknown()),
        },
        Value::Bool(_) if spec.kind.is_none() => {
            // Without a kind a truth value is a number only in its width.
            let spec = Spec { align: spec.align.or(Some('>')), ..spec };
            push_number(&Num::Int(i64::from(value.is_true())), &spec, out)
        }
        Value::Bool(_) | Value::Int(_) | Value::Big(_) | Value::Float(_) => {
            let number = print::number(value)?;
            match (&number, spec.kind) {
                (_, Some('s')) => Err(unknown()),
                (Num::Float(_), Some('d' | 'x' | 'X' | 'o' | 'b' | 'c')) => Err(unknown()),
                (Num::Int(code), Some('c')) => {
                    let text = u32::try_from(*code).ok().and_then(char::from_u32).ok_or_else(unknown)?;
                    push_text(&text.to_string(), &spec, out)
                }
                (Num::Float(_), _) | (_, None | Some('d' | 'x' | 'X' | 'o' | 'b' | 'n')) => {
                    push_number(&number, &spec, out)
                }
                (_, Some('e' | 'E' | 'f' | 'F' | 'g' | 'G' | '%')) => {
                    push_number(&Num::Float(number.float()), &spec, out)
                }
                _ => Err(unknown()),
            }
        }
        Value::Undefined(Missing::Name(_) | Missing::Attribute(..) | Missing::Because(_)) => {
            Err("unsupported format string passed to Undefined.__format__".to_owned())
        }
        _ => Err(format!("unsupported format string passed to {}.__format__", value.type_name())),
    }
}

pub fn push_text(text: &str, spec: &Spec, out: &mut String) -> Result<(), String> {
    let cut: String = match spec.precision {
        Some(precision) => text.chars().take(precision).collect(),
        None => text.to_owned(),
    };
    let fill = if spec.zero && spec.fill == ' ' { '0' } else { spec.fill };
    push_aligned("", &cut, spec.align.unwrap_or('<'), fill, spec.width, out);
    Ok(())
}

/// A text with its sign, which comes before the filling where `=` asks for that.
fn push_aligned(sign: &str, text: &str, align: char, fill: char, width: usize, out: &mut String) {
    let missing = width.saturating_sub(sign.chars().count() + text.chars().count());
    let (before, between, after) = match align {
        '<' => (0, 0, missing),
        '^' => (missing / 2, 0, missing - missing / 2),
        '=' => (0, missing, 0),
        _ => (missing, 0, 0),
    };
    let filling = |count: usize| std::iter::repeat_n(fill, count);
    out.extend(filling(before));
    out.push_str(sign);
    out.extend(filling(between));
    out.push_str(text);
    out.extend(filling(after));
}

pub fn push_number(number: &Num, spec: &Spec, out: &mut String) -> Result<(), String> {
    let absolute = number::absolute(number)?;
    let negative = match number {
        Num::Int(number) => *number < 0,
        Num::Big(number) => number.sign() == num_bigint::Sign::Minus,
        Num::Float(number) => number.is_sign_negative() && !number.is_nan(),
    };
    let mut sign = match (negative, spec.sign) {
        (true, _) => "-",
        (false, '+') => "+",
        (false, ' ') => " ",
        _ => "",
    }
    .to_owned();
    let mut digits = match &absolute {
        Num::Float(float) => float_digits(*float, spec),
        whole => {
            let text = print::string(&whole.clone().value())?;
            let (prefix, text) = whole_digits(&text, spec)?;
            sign.push_str(prefix);
            text
        }
    };
    let finite = !matches!(absolute, Num::Float(float) if !float.is_finite());
    if let Some(separator) = spec.separator.filter(|_| finite) {
        digits =
            grouped(&digits, separator, if matches!(spec.kind, Some('x' | 'X' | 'o' | 'b')) { 4 } else { 3 });
    }
    let (align, fill) = match (spec.align, spec.zero) {
        (Some(align), true) if spec.fill == ' ' => (align, '0'),
        (Some(align), _) => (align, spec.fill),
        (None, true) => ('=', '0'),
        (None, false) => ('>', spec.fill),
    };
    push_aligned(&sign, &digits, align, fill, spec.width, out);
    Ok(())
}

/// The digits of a whole number that is not negative, with their prefix.
fn whole_digits(decimal: &str, spec: &Spec) -> Result<(&'static str, String), String> {
    let radix = match spec.kind {
        Some('x' | 'X') => 16,
        Some('o') => 8,
        Some('b') => 2,
        _ => 10,
    };
    let mut text = if radix == 10 {
        decimal.to_owned()
    } else {
        let number = num_bigint::BigInt::parse_bytes(decimal.as_bytes(), 10).ok_or("no number")?;
        number.to_str_radix(radix)
    };
    if spec.kind == Some('X') {
        text = text.to_ascii_uppercase();
    }
    if let Some(precision) = spec.precision {
        text = "0".repeat(precision.saturating_sub(text.len())) + &text;
    }
    let prefix = match (spec.alternate, spec.kind) {
        (true, Some('x')) => "0x",
        (true, Some('X')) => "0X",
        (true, Some('o')) => "0o",
        (true, Some('b')) => "0b",
        _ => "",
    };
    Ok((prefix, text))
}

fn grouped(text: &str, separator: char, size: usize) -> String {
    let end = text.find(|character: char| !character.is_ascii_hexdigit()).unwrap_or(text.len());
    let (whole, rest) = text.split_at(end);
    let mut out = String::new();
    for (at, digit) in whole.chars().enumerate() {
        if at > 0 && (whole.len() - at) % size == 0 {
            out.push(separator);
        }
        out.push(digit);
    }
    out + rest
}

/// The digits of a double that is not negative.
fn float_digits(float: f64, spec: &Spec) -> String {
    let kind = spec.kind.unwrap_or(' ');
    if !float.is_finite() {
        let text = if float.is_nan() { "nan" } else { "inf" };
        let text = if kind.is_uppercase() { text.to_uppercase() } else { text.to_owned() };
        return if kind == '%' { text + "%" } else { text };
    }
    let precision = spec.precision.unwrap_or(6);
    let text = match kind.to_ascii_lowercase() {
        'f' => format!("{float:.precision$}"),
        '%' => format!("{:.precision$}%", float * 100.0),
        'e' => exponential(float, precision),
        'g' | 'n' => general(float, precision.max(1), spec.alternate),
        _ => match spec.precision {
            None => {
                let mut text = String::new();
                number::push_float(float, &mut text);
                text
            }
            Some(precision) => {
                let text = general(float, precision.max(1), spec.alternate);
                let plain = !text.contains(['.', 'e']);
                if plain { text + ".0" } else { text }
            }
        },
    };
    let text = if spec.alternate && precision == 0 && !text.contains('.') { text + "." } else { text };
    if kind.is_uppercase() { text.to_uppercase() } else { text }
}

/// `1.50e+03`.
fn exponential(float: f64, precision: usize) -> String {
    let text = format!("{float:.precision$e}");
    let (digits, exponent) = text.split_once('e').expect("{:e} writes an exponent");
    let exponent: i32 = exponent.parse().expect("{:e} writes a decimal exponent");
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.abs())
}

/// So many digits, with an exponent where that is shorter.
fn general(float: f64, precision: usize, keep_zeros: bool) -> String {
    let rounded = exponential(float, precision - 1);
    let (digits, exponent) = rounded.split_once('e').expect("it has an exponent");
    let exponent: i32 = exponent.parse().expect("it is decimal");
    let trimmed = |text: &str| match text.contains('.') && !keep_zeros {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text.to_owned(),
    };
    if (-4..precision as i32).contains(&exponent) {
        let decimals = (precision as i32 - 1 - exponent) as usize;
        return trimmed(&format!("{float:.decimals$}"));
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{}e{sign}{:02}", trimmed(digits), exponent.abs())
}
