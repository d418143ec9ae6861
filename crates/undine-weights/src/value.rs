//! Typed metadata values, as GGUF stores them.

use std::fmt;

/// Declares [`Value`] and [`Array`] from one table of scalar kinds: variant, Rust type, GGUF kind number,
/// name.
macro_rules! values {
    ($($variant:ident($kind:ty) = $number:literal, $name:literal;)*) => {
        /// A metadata value.
        #[derive(Clone, PartialEq, Debug)]
        pub enum Value {
            $(#[doc = concat!("A value of GGUF kind ", $name, ".")] $variant($kind),)*
            /// A list of values of one scalar kind.
            Array(Array),
        }

        /// A list of values of one scalar kind. Typed, so that a hostile length cannot cost more memory than
        /// its file.
        #[derive(Clone, PartialEq, Debug)]
        pub enum Array {
            $(#[doc = concat!("Values of GGUF kind ", $name, ".")] $variant(Vec<$kind>),)*
        }

        impl Array {
            /// Number of entries.
            pub fn len(&self) -> usize {
                match self { $(Self::$variant(values) => values.len(),)* }
            }

            /// The entry at `index`.
            pub fn get(&self, index: usize) -> Option<Value> {
                match self { $(Self::$variant(values) => values.get(index).cloned().map(Value::$variant),)* }
            }

            /// The GGUF kind number of the entries.
            pub fn kind(&self) -> u32 {
                match self { $(Self::$variant(_) => $number,)* }
            }

            /// The GGUF name of the entries' kind.
            pub fn kind_name(&self) -> &'static str {
                match self { $(Self::$variant(_) => $name,)* }
            }
        }

        impl Value {
            /// The GGUF kind number.
            pub fn kind(&self) -> u32 {
                match self { $(Self::$variant(_) => $number,)* Self::Array(_) => ARRAY_KIND }
            }

            /// The GGUF name of the kind.
            pub fn kind_name(&self) -> &'static str {
                match self { $(Self::$variant(_) => $name,)* Self::Array(_) => "array" }
            }
        }
    };
}

/// The GGUF kind number of arrays.
pub(crate) const ARRAY_KIND: u32 = 9;

values! {
    U8(u8) = 0, "u8";
    I8(i8) = 1, "i8";
    U16(u16) = 2, "u16";
    I16(i16) = 3, "i16";
    U32(u32) = 4, "u32";
    I32(i32) = 5, "i32";
    F32(f32) = 6, "f32";
    Bool(bool) = 7, "bool";
    String(String) = 8, "string";
    U64(u64) = 10, "u64";
    I64(i64) = 11, "i64";
    F64(f64) = 12, "f64";
}

impl Value {
    /// The value as a non-negative integer, whatever its width.
    pub fn as_u64(&self) -> Option<u64> {
        match *self {
            Self::U8(n) => Some(n.into()),
            Self::U16(n) => Some(n.into()),
            Self::U32(n) => Some(n.into()),
            Self::U64(n) => Some(n),
            Self::I8(n) => n.try_into().ok(),
            Self::I16(n) => n.try_into().ok(),
            Self::I32(n) => n.try_into().ok(),
            Self::I64(n) => n.try_into().ok(),
            _ => None,
        }
    }

    /// The value as a number; integers are converted.
    pub fn as_f64(&self) -> Option<f64> {
        match *self {
            Self::F32(x) => Some(x.into()),
            Self::F64(x) => Some(x),
            Self::I8(n) => Some(n.into()),
            Self::I16(n) => Some(n.into()),
            Self::I32(n) => Some(n.into()),
            Self::I64(n) => Some(n as f64),
            _ => self.as_u64().map(|n| n as f64),
        }
    }

    /// The value as a string.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(text) => Some(text),
            _ => None,
        }
    }

    /// The value as a boolean.
    pub fn as_bool(&self) -> Option<bool> {
        match *self {
            Self::Bool(value) => Some(value),
            _ => None,
        }
    }
}

impl Array {
    /// Whether there are no entries.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The entries, if they are strings.
    pub fn as_strings(&self) -> Option<&[String]> {
        match self {
            Self::String(values) => Some(values),
            _ => None,
        }
    }
}

/// Entries of an array that `Display` shows.
const SHOWN_MAX: usize = 32;

impl fmt::Display for Value {
    /// Scalars as they are; of a long array the kind and length.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::U8(n) => n.fmt(f),
            Self::I8(n) => n.fmt(f),
            Self::U16(n) => n.fmt(f),
            Self::I16(n) => n.fmt(f),
            Self::U32(n) => n.fmt(f),
            Self::I32(n) => n.fmt(f),
            Self::U64(n) => n.fmt(f),
            Self::I64(n) => n.fmt(f),
            Self::F32(x) => x.fmt(f),
            Self::F64(x) => x.fmt(f),
            Self::Bool(value) => value.fmt(f),
            Self::String(text) => f.write_str(text),
            Self::Array(array) if array.len() > SHOWN_MAX => {
                write!(f, "[{} x {}]", array.len(), array.kind_name())
            }
            Self::Array(array) => {
                f.write_str("[")?;
                for (i, value) in (0..array.len()).filter_map(|i| array.get(i)).enumerate() {
                    write!(f, "{}{value}", if i == 0 { "" } else { ", " })?;
                }
                f.write_str("]")
            }
        }
    }
}
