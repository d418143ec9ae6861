//! What travels over HTTP: requests that are valid once they exist, responses, and errors.

pub(crate) mod calls;
pub(crate) mod chat;
pub(crate) mod common;
pub(crate) mod completion;
pub(crate) mod error;
pub(crate) mod fields;
pub(crate) mod foreign;
pub(crate) mod foreign_format;
pub(crate) mod format;
pub(crate) mod image_options;
pub(crate) mod messages;
pub(crate) mod parts;
pub(crate) mod past_parts;
pub(crate) mod response;
pub(crate) mod strangers;
pub(crate) mod thinking;
pub(crate) mod tool_result;
pub(crate) mod tools;
pub(crate) mod weight;
