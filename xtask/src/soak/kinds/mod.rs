//! What clients do, by kind.

mod answers;
mod connections;
mod forms;
mod misuse;

use super::client::Kind;

pub use forms::picture_question;

pub fn answers() -> Vec<Kind> {
    answers::kinds()
}

pub fn forms() -> Vec<Kind> {
    forms::kinds()
}

pub fn misuse() -> Vec<Kind> {
    misuse::kinds()
}

pub fn connections() -> Vec<Kind> {
    connections::kinds()
}
