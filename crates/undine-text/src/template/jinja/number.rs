//! Python's numbers: whole ones without end (up to [`DIGITS_MAX`]) and doubles.

use std::cmp::Ordering;
use std::fmt::Write;
use std::sync::Arc;

use num_bigint::BigInt;
use num_bigint::Sign;

use super::ast::Operator;
use super::value::Value;

/// Decimal digits of a whole number; Python's own bound for texts.
pub const DIGITS_MAX: usize = 4300;
/// The same in bits, rounded up.
const BITS_MAX: u64 = 14_300;

pub fn too_long() -> String {
    format!("a number has more than {DIGITS_MAX} digits")
}

/// A number, as operators see it: `True` is 1.
#[derive(Clone, Debug)]
pub enum Num {
    Int(i64),
    Big(Arc<BigInt>),
    Float(f64),
}

impl Num {
    pub fn of(value: &Value) -> Option<Self> {
        match value {
            Value::Bool(flag) => Some(Self::Int(i64::from(*flag))),
            Value::Int(number) => Some(Self::Int(*number)),
            Value::Big(number) => Some(Self::Big(Arc::clone(number))),
            Value::Float(number) => Some(Self::Float(*number)),
            _ => None,
        }
    }

    pub fn value(self) -> Value {
        match self {
            Self::Int(number) => Value::Int(number),
            Self::Big(number) => Value::Big(number),
            Self::Float(number) => Value::Float(number),
        }
    }

    fn big(&self) -> BigInt {
        match self {
            Self::Int(number) => BigInt::from(*number),
            Self::Big(number) => (**number).clone(),
            Self::Float(_) => unreachable!("a float is no whole number"),
        }
    }

    pub fn float(&self) -> f64 {
        match self {
            Self::Int(number) => *number as f64,
            // Its decimal digits are rounded once, as Python rounds.
            Self::Big(number) => number.to_string().parse().unwrap_or(f64::NAN),
            Self::Float(number) => *number,
        }
    }

    pub fn is_zero(&self) -> bool {
        match self {
            Self::Int(number) => *number == 0,
            Self::Big(_) => false,
            Self::Float(number) => *number == 0.0,
        }
    }

    pub fn compare(&self, other: &Self) -> Option<Ordering> {
        match (self, other) {
            (Self::Int(a), Self::Int(b)) => Some(a.cmp(b)),
            (Self::Float(a), Self::Float(b)) => a.partial_cmp(b),
            (Self::Float(a), b) => compare_exactly(b, *a).map(Ordering::reverse),
            (a, Self::Float(b)) => compare_exactly(a, *b),
            (a, b) => Some(a.big().cmp(&b.big())),
        }
    }
}

/// A whole number against a double, without rounding either.
fn compare_exactly(whole: &Num, float: f64) -> Option<Ordering> {
    if float.is_nan() {
        return None;
    }
    if float.is_infinite() {
        return Some(if float > 0.0 { Ordering::Less } else { Ordering::Greater });
    }
    let floor = float.floor();
    let order = whole.big().cmp(&whole_of(floor));
    Some(if order == Ordering::Equal && float > floor { Ordering::Less } else { order })
}

/// The whole number that a finite double without fraction is.
fn whole_of(float: f64) -> BigInt {
    let digits = format!("{float:.0}");
    BigInt::parse_bytes(digits.as_bytes(), 10).unwrap_or_default()
}

/// A whole number as small as it goes.
pub fn shrunk(number: BigInt) -> Result<Num, String> {
    if number.bits() > BITS_MAX {
        return Err(too_long());
    }
    Ok(i64::try_from(&number).map_or_else(|_| Num::Big(Arc::new(number)), Num::Int))
}

/// The whole number before the point of a double.
pub fn truncated(float: f64) -> Result<Num, String> {
    if !float.is_finite() {
        let kind = if float.is_nan() { "NaN" } else { "infinity" };
        return Err(format!("cannot convert float {kind} to integer"));
    }
    shrunk(whole_of(float.trunc()))
}

/// An operator between numbers.
pub fn arithmetic(operator: Operator, a: &Num, b: &Num) -> Result<Num, String> {
    let divides = matches!(operator, Operator::Div | Operator::FloorDiv | Operator::Mod);
    if divides && b.is_zero() {
        return Err("division by zero".to_owned());
    }
    match (a, b) {
        (Num::Float(_), _) | (_, Num::Float(_)) => floats(operator, a.float(), b.float()).map(Num::Float),
        (Num::Int(a), Num::Int(b)) => small(operator, *a, *b),
        _ => whole(operator, &a.big(), &b.big()),
    }
}

fn small(operator: Operator, a: i64, b: i64) -> Result<Num, String> {
    let result = match operator {
        Operator::Add => a.checked_add(b),
        Operator::Sub => a.checked_sub(b),
        Operator::Mul => a.checked_mul(b),
        Operator::Div => return Ok(Num::Float(a as f64 / b as f64)),
        Operator::FloorDiv => a.checked_div_euclid(b).map(|quotient| {
            // Euclid's remainder is never negative, Python's has the sign of the divisor.
            if b < 0 && a.rem_euclid(b) != 0 { quotient - 1 } else { quotient }
        }),
        Operator::Mod => {
            a.checked_rem(b).map(|rest| if rest != 0 && (rest < 0) != (b < 0) { rest + b } else { rest })
        }
        Operator::Pow => None,
    };
    result.map_or_else(|| whole(operator, &BigInt::from(a), &BigInt::from(b)), |number| Ok(Num::Int(number)))
}

fn whole(operator: Operator, a: &BigInt, b: &BigInt) -> Result<Num, String> {
    let negative = |number: &BigInt| number.sign() == Sign::Minus;
    let rest = || a % b;
    let uneven = |rest: &BigInt| rest.sign() != Sign::NoSign && negative(rest) != negative(b);
    shrunk(match operator {
        Operator::Add => a + b,
        Operator::Sub => a - b,
        Operator::Mul => a * b,
        Operator::Div => {
            let [a, b] = [a, b].map(|number| Num::Big(Arc::new(number.clone())).float());
            return Ok(Num::Float(a / b));
        }
        Operator::FloorDiv => {
            let quotient = a / b;
            if uneven(&rest()) { quotient - 1 } else { quotient }
        }
        Operator::Mod => {
            let rest = rest();
            if uneven(&rest) { rest + b } else { rest }
        }
        Operator::Pow if negative(b) => {
            let [a, b] = [a, b].map(|number| Num::Big(Arc::new(number.clone())).float());
            return floats(Operator::Pow, a, b).map(Num::Float);
        }
        Operator::Pow => {
            let exponent = u32::try_from(b).unwrap_or(u32::MAX);
            if a.bits() > 1 && u64::from(exponent) * (a.bits() - 1) > BITS_MAX {
                return Err(too_long());
            }
            match (a.bits(), negative(a) && exponent % 2 == 1) {
                (0, _) => BigInt::from(u8::from(exponent == 0)),
                (1, true) => BigInt::from(-1),
                (1, false) => BigInt::from(1),
                _ => a.pow(exponent),
            }
        }
    })
}

fn floats(operator: Operator, a: f64, b: f64) -> Result<f64, String> {
    Ok(match operator {
        Operator::Add => a + b,
        Operator::Sub => a - b,
        Operator::Mul => a * b,
        Operator::Div => a / b,
        Operator::FloorDiv => floor_and_rest(a, b).0,
        Operator::Mod => floor_and_rest(a, b).1,
        Operator::Pow if a == 0.0 && b < 0.0 => {
            return Err("0.0 cannot be raised to a negative power".to_owned());
        }
        Operator::Pow if a < 0.0 && b.fract() != 0.0 && b.is_finite() => {
            return Err("a root of a negative number is complex".to_owned());
        }
        Operator::Pow => {
            let power = a.powf(b);
            if power.is_infinite() && a.is_finite() && b.is_finite() {
                return Err("the result is too large".to_owned());
            }
            power
        }
    })
}

/// Python's `divmod` of doubles.
fn floor_and_rest(a: f64, b: f64) -> (f64, f64) {
    let mut rest = a % b;
    let mut quotient = (a - rest) / b;
    if rest == 0.0 {
        rest = 0.0_f64.copysign(b);
    } else if (b < 0.0) != (rest < 0.0) {
        rest += b;
        quotient -= 1.0;
    }
    let floor = if quotient == 0.0 {
        0.0_f64.copysign(a / b)
    } else {
        let floor = quotient.floor();
        if quotient - floor > 0.5 { floor + 1.0 } else { floor }
    };
    (floor, rest)
}

pub fn negated(number: &Num) -> Result<Num, String> {
    match number {
        Num::Float(number) => Ok(Num::Float(-number)),
        number => shrunk(-number.big()),
    }
}

pub fn absolute(number: &Num) -> Result<Num, String> {
    let negative = match number {
        Num::Int(number) => *number < 0,
        Num::Big(number) => number.sign() == Sign::Minus,
        Num::Float(number) => return Ok(Num::Float(number.abs())),
    };
    if negative { negated(number) } else { Ok(number.clone()) }
}

/// Python's `round`: half to even, of the double as it is.
pub fn rounded(number: &Num, digits: i64) -> Result<Num, String> {
    match number {
        Num::Float(float) if !float.is_finite() => Ok(number.clone()),
        Num::Float(float) if digits >= 0 => {
            // A double has at most 1074 digits after its point.
            let digits = digits.min(1100) as usize;
            Ok(Num::Float(format!("{float:.digits$}").parse().unwrap_or(*float)))
        }
        Num::Float(float) => {
            let unit = 10_f64.powi(digits.max(-400).unsigned_abs() as i32);
            let rounded = (float / unit).round_ties_even() * unit;
            Ok(Num::Float(if rounded.is_nan() { 0.0 } else { rounded }))
        }
        number if digits >= 0 => Ok(number.clone()),
        number => {
            let digits = u32::try_from(digits.unsigned_abs()).unwrap_or(u32::MAX);
            if digits as usize > DIGITS_MAX {
                return Ok(Num::Int(0));
            }
            let unit = BigInt::from(10).pow(digits);
            let whole_part = number.big();
            let half: BigInt = &unit / 2;
            let floor = match whole(Operator::FloorDiv, &whole_part, &unit)? {
                Num::Float(_) => unreachable!("whole numbers"),
                floor => floor.big(),
            };
            let rest = &whole_part - &floor * &unit;
            let odd = floor.bit(0);
            let up = rest > half || (rest == half && odd);
            shrunk((floor + BigInt::from(u8::from(up))) * unit)
        }
    }
}

/// A whole number that Python's `int(text, base)` reads.
pub fn parse_int(text: &str, base: u32) -> Option<Result<Num, String>> {
    let text = text.trim_matches(super::text::is_space);
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let lower = digits.to_ascii_lowercase();
    let (base, digits) = match (base, lower.get(..2)) {
        (0 | 16, Some("0x")) => (16, &digits[2..]),
        (0 | 8, Some("0o")) => (8, &digits[2..]),
        (0 | 2, Some("0b")) => (2, &digits[2..]),
        (0, _) => (10, digits),
        (base @ 2..=36, _) => (base, digits),
        _ => return None,
    };
    let digits = plain_digits(digits, |digit| digit.is_digit(base))?;
    if digits.len() > DIGITS_MAX {
        return Some(Err(too_long()));
    }
    let number = BigInt::parse_bytes(digits.as_bytes(), base)?;
    Some(shrunk(if negative { -number } else { number }))
}

/// A text of digits without the single underscores between them.
fn plain_digits(text: &str, is_digit: impl Fn(char) -> bool) -> Option<String> {
    let ends = [text.chars().next()?, text.chars().next_back()?];
    let known = text.chars().all(|character| character == '_' || is_digit(character));
    let right = known && !ends.contains(&'_') && !text.contains("__");
    right.then(|| text.replace('_', ""))
}

/// A double that Python's `float(text)` reads.
pub fn parse_float(text: &str) -> Option<f64> {
    let text = text.trim_matches(super::text::is_space).to_ascii_lowercase();
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(&text);
    if matches!(unsigned, "inf" | "infinity" | "nan") {
        return text.parse().ok();
    }
    if !unsigned.starts_with(|first: char| first.is_ascii_digit() || first == '.') {
        return None;
    }
    let bytes = text.as_bytes();
    let digit = |at: Option<usize>| at.and_then(|at| bytes.get(at)).is_some_and(u8::is_ascii_digit);
    let between = |at: usize| digit(at.checked_sub(1)) && digit(Some(at + 1));
    let right = text.match_indices('_').all(|(at, _)| between(at));
    if right { text.replace('_', "").parse().ok() } else { None }
}

/// Python's `repr` of a double: shortest digits, an exponent below 1e-4 and from 1e16 on.
pub fn push_float(number: f64, out: &mut String) {
    if number.is_nan() {
        return out.push_str("nan");
    }
    if number.is_infinite() {
        return out.push_str(if number > 0.0 { "inf" } else { "-inf" });
    }
    let scientific = format!("{number:e}");
    let (digits, exponent) = scientific.split_once('e').expect("{:e} writes an exponent");
    let exponent: i32 = exponent.parse().expect("{:e} writes a decimal exponent");
    if number == 0.0 || (-4..16).contains(&exponent) {
        let plain = number.to_string();
        out.push_str(&plain);
        if !plain.contains('.') {
            out.push_str(".0");
        }
        return;
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    write!(out, "{digits}e{sign}{:02}", exponent.abs()).expect("a String takes everything");
}
